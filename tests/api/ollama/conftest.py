from collections.abc import Iterator

import pytest

from tests.api.ollama.real_server import serving
from tests.fakes import registry
from tests.fakes.registry import Registry


@pytest.fixture(scope="session")
def hub() -> Iterator[Registry]:
    """What the real server pulls from."""
    with registry.serving() as running:
        yield running


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory, hub: Registry) -> Iterator[str]:
    """One real server for the pages of both official clients."""
    with serving(tmp_path_factory.mktemp("server"), hub) as url:
        yield url

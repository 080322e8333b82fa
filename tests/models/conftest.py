"""What several tests of the store need."""

from collections.abc import Iterator

import pytest

from models.catalog import Catalog
from tests.fakes.registry import Registry, serving
from tests.models.pulling import publish


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A package index and a hub on a loopback port."""
    with serving() as served:
        yield served


@pytest.fixture
def catalog(registry: Registry) -> Catalog:
    """Three small models that the registry has."""
    return publish(registry)

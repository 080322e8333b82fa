"""What the tests of stopped changes have in common."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.catalog import Catalog
from tests.fakes.registry import Registry, serving
from tests.models.pulling import publish


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as served:
        yield served


@pytest.fixture
def catalog(registry: Registry) -> Catalog:
    return publish(registry)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: the moments are many, and each waits for the disk several times."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)

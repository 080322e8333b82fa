from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog

from tests.api.world import Served, World, in_process, make_world, serving


@pytest.fixture(autouse=True)
def log() -> Iterator[list[Any]]:
    """What is logged, as records."""
    capture = structlog.testing.LogCapture()
    structlog.configure(processors=[capture])
    yield capture.entries
    structlog.reset_defaults()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World, None]:
    world = make_world(tmp_path / "uploads")
    yield world
    await world.pool.close()
    assert world.repository.violations == []
    assert world.uploads == []


@pytest.fixture
async def client(world: World) -> AsyncGenerator[httpx2.AsyncClient, None]:
    async with in_process(world.app()) as client:
        yield client


@pytest.fixture
async def server(world: World) -> AsyncGenerator[Served, None]:
    async with serving(world.app()) as server:
        yield server

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog

from tests.api import real_server
from tests.api.world import Served, World, in_process, make_world, serving
from tests.fakes import registry
from tests.fakes.registry import Registry


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


@pytest.fixture(scope="session")
def hub() -> Iterator[Registry]:
    """What the real server pulls from."""
    with registry.serving() as running:
        yield running


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory, hub: Registry) -> Iterator[str]:
    """One real server for the official clients of every dialect: starting it takes longer than most tests."""
    with real_server.serving(tmp_path_factory.mktemp("server"), hub) as url:
        yield url

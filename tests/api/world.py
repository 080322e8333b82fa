"""A whole application over models without weights, and ways to reach it."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from api.app import create_app
from api.protocol import ConnectionLimits, limited_protocol
from api.services import Defaults, Services
from application.answer_query import AnswerQuery
from application.device_arbiter import DeviceArbiter
from application.embed_texts import EmbedTexts
from application.generate_text import GenerateText
from application.manage_models import ManageModels
from application.model_pool import ModelPool
from application.transcribe_audio import TranscribeAudio
from domain.memory import MemoryBounds
from tests.fakes.clock import LoopClock
from tests.fakes.events import RecordedEvents
from tests.fakes.fetcher import FakeFetcher
from tests.fakes.library import FakeModelLibrary
from tests.fakes.models import FakeModelRepository, embedding_spec, speech_spec, text_spec
from tests.fakes.probe import FakeProbe
from tests.fakes.tokenizers import FakeTokenizers

TEXT = "tiny:1b"
SPEECH = "ear:base"
EMBEDDING = "vector:small"


@dataclass
class World:
    """Everything that a test of the HTTP layer may look at or change."""

    repository: FakeModelRepository
    pool: ModelPool
    library: FakeModelLibrary
    events: RecordedEvents
    fetcher: FakeFetcher
    services: Services

    def app(self, **changes: Any) -> FastAPI:
        """The application, with other services where a test wants them."""
        return create_app(replace(self.services, **changes))

    @property
    def uploads(self) -> list[Path]:
        """What lies in the upload folder now."""
        folder = self.services.uploads_dir
        return [path for path in folder.rglob("*") if path.name != ".lock"] if folder.exists() else []


def make_world(
    uploads_dir: Path, *, arbiter: DeviceArbiter | None = None, bounds: MemoryBounds | None = None, **repository: Any
) -> World:
    """A text, a speech and an embedding model, none of them in memory."""
    aliases = {"qwen-model_full": TEXT, "whisper-1": SPEECH}
    models = FakeModelRepository(
        text_spec(TEXT), speech_spec(SPEECH), embedding_spec(EMBEDDING), aliases=aliases, **repository
    )
    clock, events, fetcher = LoopClock(), RecordedEvents(), FakeFetcher()
    pool = ModelPool(models, clock, events, arbiter=arbiter, bounds=bounds)
    generate = GenerateText(pool, clock, events)
    library = FakeModelLibrary(models)
    services = Services(
        pool=pool,
        generate=generate,
        answer=AnswerQuery(generate),
        transcribe=TranscribeAudio(pool, clock, events),
        embed=EmbedTexts(pool, clock, events),
        library=library,
        manage=ManageModels(pool, library, events),
        tokenizers=FakeTokenizers(),
        probe=FakeProbe(),
        fetcher=fetcher,
        clock=clock,
        uploads_dir=uploads_dir,
        version="0.1.0",
        started_at=0.0,
        defaults=Defaults(model=TEXT, speech_model=SPEECH),
        aliases=aliases,
    )
    return World(models, pool, library, events, fetcher, services)


def in_process(app: FastAPI) -> httpx2.AsyncClient:
    """A client without sockets. It sees a response when it is complete."""
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost")


@dataclass(frozen=True)
class Served:
    """A running server."""

    host: str
    port: int
    client: httpx2.AsyncClient
    open_connections: Counter[str]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare connection."""
        return await asyncio.open_connection(self.host, self.port)


class _Server(uvicorn.Server):
    """Stops when it is told to, not at the next tick."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stop = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.stop.wait()


@asynccontextmanager
async def serving(app: ASGIApp, limits: ConnectionLimits | None = None) -> AsyncGenerator[Served, None]:
    """The application behind a real server in the test's own event loop."""
    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()
    protocol = limited_protocol(limits or ConnectionLimits(), "ingle/0.1.0")
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with httpx2.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False) as client:
            yield Served(host, port, client, protocol.open_connections)
    finally:
        server.stop.set()
        await running
        listener.close()


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until `condition()` holds; the test's time limit ends it otherwise."""
    while not condition():  # noqa: ASYNC110 (what the conditions look at tells nobody when it changes)
        await asyncio.sleep(0.001)

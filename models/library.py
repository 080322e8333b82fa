"""The models on disk, for the rest of the program: blocking work in threads, pulls as streams."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor

from domain.library import ModelDetails, NewModel, PullProgress
from domain.model import ModelSpec
from models.details import DetailsReader
from models.store import ModelStore

_PULLS = 32
_LEAVING = 2.0


class StoredLibrary:
    """Implements `application.ports.ModelLibrary` over the local store."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._details = DetailsReader()
        # Threads of their own: waiting for a download must not take those that everybody else uses.
        self._pulling = ThreadPoolExecutor(_PULLS, "pull")

    async def pull(self, name: str) -> AsyncGenerator[PullProgress, None]:
        """Install `name`, or repair it, and tell how far that is; see the contract."""
        loop = asyncio.get_running_loop()
        inbox: asyncio.Queue[PullProgress | None] = asyncio.Queue()
        cancelled = threading.Event()

        def tell(step: PullProgress | None) -> None:
            loop.call_soon_threadsafe(inbox.put_nowait, step)

        work = loop.run_in_executor(self._pulling, self._store.pull, name, tell, cancelled)
        work.add_done_callback(lambda _: inbox.put_nowait(None))
        try:
            while (step := await inbox.get()) is not None:
                yield step
            await work
        finally:
            cancelled.set()
            # Whoever asks again once we are closed must not join a pull that nobody wants any more.
            await asyncio.wait({work}, timeout=_LEAVING)
            work.add_done_callback(lambda over: over.cancelled() or over.exception())  # nobody else may ask

    async def delete(self, name: str) -> ModelSpec:
        """Remove a model; returns what it was."""
        return (await asyncio.to_thread(self._store.remove, name)).spec

    async def copy(self, source: str, destination: str) -> ModelSpec:
        """Give `source` a second name."""
        return (await asyncio.to_thread(self._store.copy, source, destination)).spec

    async def create(self, wish: NewModel) -> ModelSpec:
        """Make a model from another."""
        return (await asyncio.to_thread(self._store.create, wish)).spec

    async def details(self, name: str, *, vocabulary: bool = False) -> ModelDetails:
        """What the files of an installed model say."""

        def read() -> ModelDetails:
            return self._details.read(self._store.find(name), vocabulary=vocabulary)

        return await asyncio.to_thread(read)

    def close(self) -> None:
        """End the threads. Every pull must be over or abandoned."""
        self._pulling.shutdown(wait=False, cancel_futures=True)

"""Changing what is on disk without pulling it from under anybody who uses it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, nullcontext
from typing import Any

from application.events import ModelDeleted, ModelMade, ModelPulled, Publish
from application.model_pool import ModelPool
from application.ports import ModelLibrary
from domain.errors import InvalidRequest, ModelExists
from domain.library import NewModel, PullProgress, PullStage
from domain.model import ModelSpec, WeightFormat


class ManageModels:
    """Pulls, deletes, copies and makes models.

    A model that is in use is neither deleted nor replaced: ModelBusy, or ModelPinned for a pinned one. An idle one
    leaves memory first, and whoever wants it meanwhile waits for the end of the change. A change that began is
    finished even if its caller leaves.
    """

    def __init__(self, pool: ModelPool, library: ModelLibrary, publish: Publish) -> None:
        self._pool = pool
        self._library = library
        self._publish = publish

    async def pull(self, name: str) -> AsyncGenerator[PullProgress, None]:
        """Install `name` and tell how far that is; see ModelLibrary. Closing the generator cancels."""
        async with aclosing(self._library.pull(name)) as steps:
            async for step in steps:
                if step.stage is PullStage.DONE:
                    self._publish(ModelPulled(name))
                yield step

    async def delete(self, name: str) -> ModelSpec:
        """Take a model off the disk; returns what it was. Raises ModelNotFound, InvalidRequest, ModelBusy."""

        async def delete() -> ModelSpec:
            gone = await self._library.delete(name)
            self._publish(ModelDeleted(gone.id))
            return gone

        present = self._pool.repository.find(name)
        if present.format is WeightFormat.REMOTE:
            raise InvalidRequest(f"model '{present.id}' lies with another server: there is nothing to delete here")
        return await self._change(present.id, delete)

    async def copy(self, source: str, destination: str) -> ModelSpec:
        """Give `source` a second name. Raises ModelNotFound, InvalidRequest, ModelExists, ModelBusy."""

        async def copy() -> ModelSpec:
            made = await self._library.copy(source, destination)
            self._publish(ModelMade(made.id, source))
            return made

        return await self._change(destination, copy)

    async def create(self, wish: NewModel) -> ModelSpec:
        """Make a model from another. Raises as `copy` does."""

        async def create() -> ModelSpec:
            made = await self._library.create(wish)
            self._publish(ModelMade(made.id, made.preset.parent))
            return made

        return await self._change(wish.name, create)

    async def _change(self, model_id: str, work: Callable[[], Coroutine[Any, Any, ModelSpec]]) -> ModelSpec:
        """Do `work` while the model of exactly that name, if there is one, is out of memory."""
        installed = {spec.id.lower(): spec for spec in self._pool.repository.installed()}
        present = installed.get(model_id.strip().lower())
        if present is not None and present.format is WeightFormat.REMOTE:
            raise ModelExists(f"'{present.id}' is the name of another server's model")

        async def alone() -> ModelSpec:
            async with nullcontext() if present is None else self._pool.removing(present.id):
                return await work()

        return await asyncio.shield(asyncio.create_task(alone(), name="change of a model on disk"))

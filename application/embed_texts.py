"""Embedding as a use case: take a lease, get the vectors, say what happened."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from application.events import Publish, TextsEmbedded, WorkCancelled
from application.model_pool import ModelPool
from application.ports import Clock, EmbeddingModel
from domain.embedding import EmbeddingInput, Embeddings, check_inputs
from domain.errors import RequestCancelled
from domain.model import Model, Task


@dataclass(frozen=True, slots=True)
class EmbeddedTexts:
    """The vectors, the model that made them, and the length of its own vectors. Times are seconds."""

    model: Model
    embeddings: Embeddings
    dimensions: int
    load_seconds: float
    embed_seconds: float


class EmbedTexts:
    """Turn texts into vectors under a lease of the model."""

    def __init__(self, pool: ModelPool, clock: Clock, publish: Publish) -> None:
        self._pool = pool
        self._clock = clock
        self._publish = publish

    async def embed(
        self,
        model_name: str,
        texts: Sequence[EmbeddingInput],
        *,
        truncate: bool = True,
        dimensions: int | None = None,
        normalize: bool = True,
        keep_alive: float | None = None,
        request_id: str = "",
    ) -> EmbeddedTexts:
        """One vector for each text, in order, of an embedding model or a text model; see `application.ports`.

        What cannot be embedded is refused before any model is loaded for it. Cancelling the awaiting task ends
        the work and the lease.
        """
        check_inputs(texts, dimensions)
        asked_at = self._clock.monotonic()
        async with self._lend(model_name, keep_alive, request_id) as model:
            began_at = self._clock.monotonic()
            try:
                embeddings = await model.embed(texts, truncate=truncate, dimensions=dimensions, normalize=normalize)
            except (asyncio.CancelledError, RequestCancelled):
                self._publish(WorkCancelled(model.info.id, request_id))
                raise
            seconds = self._clock.monotonic() - began_at
            self._pool.requests.finished(request_id, began_at - asked_at)
            self._publish(TextsEmbedded(model.info.id, request_id, len(texts), embeddings.total_tokens, seconds))
            return EmbeddedTexts(model.info, embeddings, model.dimensions, began_at - asked_at, seconds)

    def _lend(
        self, model_name: str, keep_alive: float | None, request_id: str
    ) -> AbstractAsyncContextManager[EmbeddingModel]:
        if self._pool.repository.find(model_name).task is Task.TEXT:
            return self._pool.lend(model_name, Task.TEXT, keep_alive=keep_alive, request_id=request_id)
        return self._pool.lend(model_name, Task.EMBEDDING, keep_alive=keep_alive, request_id=request_id)

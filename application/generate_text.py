"""Text generation as a use case: take a lease, pass the chunks on, say what happened."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from application.events import GenerationFinished, Publish, WorkCancelled
from application.model_pool import ModelPool
from application.ports import Clock
from domain.errors import GenerationFailed, InvalidRequest, RequestCancelled
from domain.generation import Finish, GenerationRequest, TextChunk
from domain.model import Model, Task
from domain.prompt import Prompt
from domain.tools import ToolCall


@dataclass(frozen=True, slots=True)
class GenerationStarted:
    """The model is in memory and has the request: the first thing that a stream yields."""

    model: Model
    queue_position: int
    load_seconds: float


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished answer."""

    started: GenerationStarted
    text: str
    finish: Finish
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


class GenerateText:
    """Stream or complete text under a lease of the model."""

    def __init__(self, pool: ModelPool, clock: Clock, publish: Publish) -> None:
        self._pool = pool
        self._clock = clock
        self._publish = publish

    async def stream(
        self, model_name: str, request: GenerationRequest, *, keep_alive: float | None = None
    ) -> AsyncGenerator[GenerationStarted | TextChunk, None]:
        """Yield GenerationStarted, then chunks; the timings of each answer's last one include the wait for the load.

        Closing this generator ends the work and the lease.
        """
        asked_at = self._clock.monotonic()
        async with self._pool.lend(
            model_name, Task.TEXT, keep_alive=keep_alive, request_id=request.request_id
        ) as model:
            load_seconds = self._clock.monotonic() - asked_at
            unfinished = request.n
            try:
                yield GenerationStarted(model.info, model.waiting, load_seconds)
                async with aclosing(model.generate(request)) as chunks:
                    async for chunk in chunks:
                        if chunk.finish is not None:
                            unfinished -= 1
                            if not unfinished:
                                self._pool.requests.finished(
                                    request.request_id, load_seconds + chunk.finish.timings.queue
                                )
                            chunk = self._finish(model.info.id, request, chunk, chunk.finish, load_seconds)
                        yield chunk
            except (GeneratorExit, asyncio.CancelledError, RequestCancelled):
                if unfinished:
                    self._publish(WorkCancelled(model.info.id, request.request_id))
                raise

    def _finish(
        self, model_id: str, request: GenerationRequest, chunk: TextChunk, finish: Finish, load_seconds: float
    ) -> TextChunk:
        finish = replace(finish, timings=replace(finish.timings, load=load_seconds))
        self._publish(GenerationFinished(model_id, request.request_id, finish.reason, finish.usage, finish.timings))
        return replace(chunk, finish=finish)

    async def complete(
        self, model_name: str, request: GenerationRequest, *, keep_alive: float | None = None
    ) -> Generation:
        """The whole answer at once; cancelling the awaiting task ends the work.

        Raises InvalidRequest if the request wants several answers: those need a stream.
        """
        if request.n != 1:
            raise InvalidRequest("several answers can only be had from a stream", field="n")
        started: GenerationStarted | None = None
        pieces: list[str] = []
        thinking: list[str] = []
        calls: list[ToolCall] = []
        async with aclosing(self.stream(model_name, request, keep_alive=keep_alive)) as events:
            async for event in events:
                if isinstance(event, GenerationStarted):
                    started = event
                    continue
                pieces.append(event.text)
                thinking.append(event.thinking)
                calls.extend(event.tool_calls)
                if event.finish is not None and started is not None:
                    return Generation(started, "".join(pieces), event.finish, "".join(thinking), tuple(calls))
        raise GenerationFailed("the model's stream ended without saying why")

    async def count_tokens(self, model_name: str, prompt: Prompt) -> tuple[int, int]:
        """How many tokens `prompt` takes, and how many the loaded model's context holds."""
        async with self._pool.lend(model_name, Task.TEXT) as model:
            return len(await model.encode(prompt)), model.info.context_length

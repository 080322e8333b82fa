"""One request for text, worked on: its records as they come, or one for the whole answer."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from api.services import Services
from api.streaming import Record
from api.text_records import Shape, TextRecords
from application.fit_prompt import FitPrompt, PromptCut
from application.generate_text import GenerationStarted
from domain.errors import GenerationFailed
from domain.generation import Finish, GenerationRequest, TextChunk
from domain.model import Model
from domain.prompt import RawText

Event = GenerationStarted | TextChunk


@dataclass(frozen=True, slots=True)
class Truncation:
    """How a prompt that is too long is cut: by whole messages, or by tokens except the first `num_keep`."""

    by_messages: bool
    num_keep: int


class TextAnswer:
    """Asks the model and writes records of what it says.

    `last` gives further fields of the last record, `watch` sees every event. `truncation` None refuses a prompt that
    does not fit. Closing `records`, or cancelling `whole`, ends the work.
    """

    def __init__(
        self,
        services: Services,
        name: str,
        request: GenerationRequest,
        shape: Shape,
        *,
        with_context: bool = False,
        truncation: Truncation | None = None,
        keep_alive: float | None = None,
        last: Callable[[Model, Finish], dict[str, Any]] = lambda _, __: {},
        watch: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._services = services
        self._name = name
        self._request = request
        self._truncation = truncation
        self._keep_alive = keep_alive
        self._last = last
        self._watch = watch
        with_context = with_context and not isinstance(request.prompt, RawText)
        self._records = TextRecords(services, name, shape, with_context=with_context)
        self._is_cut = False
        self._model: Model | None = None

    def headers(self) -> dict[str, str]:
        """What the response says beside its body, once there is a first record."""
        return {"x-truncated": "true"} if self._is_cut else {}

    async def records(self) -> AsyncGenerator[Record, None]:
        """A record for each piece, and a last one, without text, for the figures."""
        async with aclosing(self._chunks()) as chunks:
            async for chunk in chunks:
                for record in self._records.pieces(chunk):
                    yield record
                if chunk.finish is not None:
                    yield self._ended(self._records.last(chunk.finish), chunk.finish)

    async def whole(self) -> Record:
        """The finished answer."""
        async with aclosing(self._chunks()) as stream:
            chunks = [chunk async for chunk in stream]
        finish = chunks[-1].finish if chunks else None
        if finish is None:
            raise GenerationFailed("the model's stream ended without saying why")
        return self._ended(self._records.whole(chunks, finish), finish)

    def _ended(self, record: dict[str, Any], finish: Finish) -> Record:
        assert self._model is not None
        return {**record, **self._last(self._model, finish)}

    async def _chunks(self) -> AsyncGenerator[TextChunk, None]:
        async with aclosing(self._events()) as events:
            async for event in events:
                if isinstance(event, PromptCut):
                    self._is_cut = True
                    continue
                self._watch(event)
                if isinstance(event, GenerationStarted):
                    self._model = event.model
                else:
                    yield event

    def _events(self) -> AsyncGenerator[PromptCut | Event, None]:
        generate, name, request = self._services.generate, self._name, self._request
        if self._truncation is None:
            return generate.stream(name, request, keep_alive=self._keep_alive)
        fit = FitPrompt(self._services.pool, generate)
        return fit.stream(
            name,
            request,
            by_messages=self._truncation.by_messages,
            num_keep=self._truncation.num_keep,
            keep_alive=self._keep_alive,
        )

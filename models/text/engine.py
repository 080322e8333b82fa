"""The text engine: requests in, chunk streams out; many requests share each step of the owner thread."""

import asyncio
import itertools
import logging
import queue
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from domain.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineUnavailable,
    GenerationFailed,
    IngleError,
    InvalidRequest,
    RequestCancelled,
)
from domain.generation import (
    Chat,
    Continuation,
    Finish,
    FinishReason,
    GenerationRequest,
    Prompt,
    RawText,
    TextChunk,
    Timings,
    Usage,
)
from domain.model import Model
from models.inference_thread import InferenceThread
from models.text.admission import Admission
from models.text.sampler import Sampler
from models.text.scheduler import Scheduler, Step
from models.text.sequence import Sequence, SequenceStatus
from models.text.tokenizer import TextStream, TextTokenizer

log = logging.getLogger(__name__)

# Below this many characters a prompt is encoded on the event loop: a thread would cost more.
_ENCODE_INLINE = 2048


class StepRunner(Protocol):
    """What the engine needs of a model: `Runner` with weights, or a fake without."""

    def run(self, step: Step) -> torch.Tensor:
        """`[rows, vocabulary]` logits, one row for each work that samples."""
        ...


Item = TextChunk | IngleError


@dataclass(slots=True, eq=False)
class _Stream:
    """The two ends of one answer: the sequence on the owner thread, the queue on the caller's event loop."""

    sequence: Sequence
    text: TextStream
    loop: asyncio.AbstractEventLoop
    items: "asyncio.Queue[Item]"
    arrival: float
    admitted_tokens: int


class TextEngine:
    """Implements `application.ports.TextModel` over a scheduler, a runner and a sampler.

    Callers talk to it on an event loop; everything that touches the scheduler runs on the owner thread, which
    takes new requests and aborts from an inbox between two steps.
    """

    def __init__(
        self,
        info: Model,
        tokenizer: TextTokenizer,
        scheduler: Scheduler,
        runner: StepRunner,
        thread: InferenceThread,
        admission: Admission,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._info = info
        self._tokenizer = tokenizer
        self._scheduler = scheduler
        self._runner: StepRunner | None = runner
        self._thread = thread
        self._admission = admission
        self._clock = clock
        self._sampler = Sampler()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._streams: dict[int, _Stream] = {}
        self._outbox: list[tuple[_Stream, Item]] = []
        self._numbers = itertools.count()
        thread.attach(self)

    # -- the caller's side --------------------------------------------------------------------------

    @property
    def info(self) -> Model:
        """The entity."""
        return self._info

    @property
    def waiting(self) -> int:
        """How many requests are admitted and have not begun."""
        return self._admission.requests

    async def count_tokens(self, prompt: Prompt) -> int:
        """How many tokens of context `prompt` takes."""
        return len(await self._encode(prompt))

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TextChunk, None]:
        """Answer `request`; see `application.ports.TextModel` for the contract."""
        arrival = self._clock()
        ids = await self._encode(request.prompt)
        stream = self._new_stream(request, ids, arrival)
        self._admission.enter(len(ids))
        self._tell(lambda: self._begin(stream))
        try:
            while True:
                item = await stream.items.get()
                self._leave_admission(stream)
                if isinstance(item, IngleError):
                    raise item
                yield item
                if item.finish is not None:
                    return
        finally:
            self._leave_admission(stream)
            if stream.sequence.status is not SequenceStatus.FINISHED:
                self._tell(lambda: self._end(stream, None))

    def abort(self) -> None:
        """End all work in flight with RequestCancelled."""
        self._tell(lambda: self._fail_all(RequestCancelled("the model was unloaded while this request ran")))

    async def close(self) -> None:
        """Leave the owner thread and drop the weights. No generator may be open."""
        await self._thread.detach(self)
        self._runner = None

    async def _encode(self, prompt: Prompt) -> list[int]:
        if _characters(prompt) <= _ENCODE_INLINE:
            return self._tokenizer.encode(prompt)
        return await asyncio.to_thread(self._tokenizer.encode, prompt)

    def _new_stream(self, request: GenerationRequest, ids: list[int], arrival: float) -> _Stream:
        context = self._info.context_length
        if not ids:
            raise InvalidRequest("the prompt is empty after tokenising", field="prompt")
        if len(ids) >= context:
            raise ContextLengthExceeded(len(ids), context)
        wanted = request.sampling.max_tokens
        sequence = Sequence(
            id=next(self._numbers),
            ids=ids,
            params=request.sampling,
            max_new_tokens=min(context - len(ids), wanted if wanted is not None else context),
            stop_ids=frozenset(self._tokenizer.settings.end_ids),
            arrival=arrival,
            deadline=None if request.timeout_seconds is None else arrival + request.timeout_seconds,
        )
        text = self._tokenizer.stream(request.sampling.stop)
        return _Stream(sequence, text, asyncio.get_running_loop(), asyncio.Queue(), arrival, len(ids))

    def _leave_admission(self, stream: _Stream) -> None:
        if stream.admitted_tokens:
            self._admission.leave(stream.admitted_tokens)
            stream.admitted_tokens = 0

    def _tell(self, message: Callable[[], None]) -> None:
        self._inbox.put(message)
        self._thread.wake()

    # -- the owner thread's side ----------------------------------------------------------------------

    def step(self) -> bool:
        """One forward pass for everybody; True while there is more to do."""
        while not self._inbox.empty():
            self._inbox.get()()
        self._expire()
        if self._scheduler.running or self._scheduler.waiting:
            self._advance()
        self._deliver()
        return bool(self._scheduler.running or self._scheduler.waiting)

    def _begin(self, stream: _Stream) -> None:
        if self._runner is None:
            stream.sequence.status = SequenceStatus.FINISHED
            self._send(stream, EngineUnavailable("the model is being unloaded: ask again"))
            return
        self._streams[stream.sequence.id] = stream
        self._scheduler.add(stream.sequence)

    def _advance(self) -> None:
        step = self._scheduler.schedule()
        assert self._runner is not None
        now = self._clock()
        for work in step.work:
            if work.sequence.started is None:
                work.sequence.started = now
        sampling = [work.sequence for work in step.work if work.samples]
        try:
            tokens = self._sampler.sample(self._runner.run(step), sampling)
        except Exception as error:
            log.exception("a step of %s failed", self._info.id)
            for work in step.work:
                self._fail(
                    work.sequence, GenerationFailed(f"the model failed while generating: {type(error).__name__}")
                )
            return
        self._scheduler.complete(step)
        for sequence, token in zip(sampling, tokens, strict=True):
            self._take(sequence, token)

    def _take(self, sequence: Sequence, token: int | None) -> None:
        stream = self._streams[sequence.id]
        if sequence.first_token is None:
            sequence.first_token = self._clock()
        if token is None:
            self._fail(sequence, GenerationFailed("the model produced no valid number for the next token"))
            return
        if sequence.max_new_tokens == 0:
            self._finish(stream, FinishReason.LENGTH, "")
            return
        reason = sequence.append(token)
        ended_by_model = reason is FinishReason.STOP
        text = "" if ended_by_model else stream.text.push(token)
        if stream.text.stopped:
            reason = FinishReason.STOP
        if reason is not None:
            self._finish(stream, reason, text)
        elif text:
            self._send(stream, TextChunk(text))

    def _finish(self, stream: _Stream, reason: FinishReason, text: str) -> None:
        sequence = stream.sequence
        finish = Finish(
            reason,
            Usage(sequence.prompt_length, sequence.new_tokens, sequence.cached),
            self._timings(stream),
            tuple(sequence.ids),
        )
        self._end(stream, reason)
        self._send(stream, TextChunk(text + stream.text.flush(), finish))

    def _timings(self, stream: _Stream) -> Timings:
        now = self._clock()
        started = stream.sequence.started or now
        first = stream.sequence.first_token or now
        return Timings(queue=started - stream.arrival, prompt=first - started, decode=now - first)

    def _end(self, stream: _Stream, reason: FinishReason | None) -> None:
        """Take a sequence out; without a reason it was aborted by its caller, who no longer listens."""
        self._scheduler.finish(stream.sequence, reason)
        self._sampler.forget(stream.sequence)
        self._streams.pop(stream.sequence.id, None)

    def _fail(self, sequence: Sequence, error: IngleError) -> None:
        stream = self._streams[sequence.id]
        self._end(stream, None)
        self._send(stream, error)

    def _fail_all(self, error: IngleError) -> None:
        for sequence in list(self._scheduler.alive()):
            self._fail(sequence, error)

    def _expire(self) -> None:
        now = self._clock()
        for sequence in list(self._scheduler.alive()):
            if sequence.deadline is not None and now >= sequence.deadline:
                if sequence.new_tokens:
                    self._finish(self._streams[sequence.id], FinishReason.LENGTH, "")
                else:
                    self._fail(sequence, DeadlineExceeded("the deadline passed before the first token"))

    def _send(self, stream: _Stream, item: Item) -> None:
        self._outbox.append((stream, item))

    def _deliver(self) -> None:
        """Hand over everything that the step produced, with one wake-up for each event loop."""
        outbox, self._outbox = self._outbox, []
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Stream, Item]]] = {}
        for stream, item in outbox:
            by_loop.setdefault(stream.loop, []).append((stream, item))
        for loop, items in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_put_all, items)


def _characters(prompt: Prompt) -> int:
    match prompt:
        case RawText(text):
            return len(text)
        case Continuation(token_ids, then):
            return len(token_ids) + _characters(then)
        case Chat(messages):
            return sum(len(message.content) for message in messages)


def _put_all(items: list[tuple[_Stream, Item]]) -> None:
    for stream, item in items:
        stream.items.put_nowait(item)

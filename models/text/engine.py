"""The text engine: requests in, chunk streams out; many requests share each step of the owner thread."""

import logging
import queue
import time
from array import array
from collections.abc import AsyncGenerator, Callable, Iterator
from collections.abc import Sequence as Ids
from contextlib import contextmanager

from domain.embedding import EmbeddingInput, Embeddings, check_inputs
from domain.errors import (
    DeadlineExceeded,
    EngineUnavailable,
    GenerationFailed,
    IngleError,
    Overloaded,
    RequestCancelled,
)
from domain.generation import FinishReason, GenerationRequest, TextChunk
from domain.model import Model
from domain.prompt import Prompt
from models.inference_thread import InferenceThread
from models.text import pooling
from models.text.admission import Admission
from models.text.answer import Answer, Outbox, Stream
from models.text.cache_memory import CacheMemory, CacheUse
from models.text.execution import StepRunner
from models.text.intake import Intake
from models.text.sampler import Ranked, Sampler
from models.text.scheduler import Scheduler
from models.text.sequence import Sequence
from models.text.tokenizer import TextTokenizer

log = logging.getLogger(__name__)


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
        cache: CacheMemory | None = None,
        dimensions: int = 0,
    ) -> None:
        """`cache` is None for a runner that keeps none; `dimensions` is the width of the model's hidden states."""
        self._info = info
        self._dimensions = dimensions
        self._tokenizer = tokenizer
        self._cache = cache
        self._intake = Intake(tokenizer, info.context_length)
        self._scheduler = scheduler
        self._runner: StepRunner | None = runner
        self._thread = thread
        self._admission = admission
        self._clock = clock
        self._sampler = Sampler()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._answers: dict[int, Answer] = {}
        self._outbox = Outbox()
        self._aborted = False
        thread.attach(self)

    # -- the caller's side --------------------------------------------------------------------------

    @property
    def info(self) -> Model:
        """The entity."""
        return self._info

    @property
    def dimensions(self) -> int:
        """The length of the vectors that `embed` gives."""
        return self._dimensions

    @property
    def waiting(self) -> int:
        """How many requests are admitted and have not begun."""
        return self._admission.requests

    async def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The tokens that the model reads for `prompt`."""
        return tuple(await self._intake.encode(prompt))

    async def decode(self, token_ids: Ids[int]) -> str:
        """The text of `token_ids`."""
        return await self._intake.decode(token_ids)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TextChunk, None]:
        """Answer `request`; see `application.ports.TextModel` for the contract."""
        stream = await self._intake.open(request, self._clock())
        unheard = set(range(request.n))
        with self._running(stream):
            while stream.unfinished:
                chunk = await stream.next()
                unheard.discard(chunk.index)
                if not unheard:
                    self._leave_admission(stream)
                yield chunk

    async def embed(
        self,
        texts: Ids[EmbeddingInput],
        *,
        truncate: bool = True,
        dimensions: int | None = None,
        normalize: bool = True,
    ) -> Embeddings:
        """The hidden state of each text's last token; see `application.ports.EmbeddingModel` for the contract."""
        check_inputs(texts, dimensions)
        rows = await pooling.encoded(self._tokenizer, texts, self._info.context_length, truncate=truncate)
        with self._admission.waiting(sum(map(len, rows))):
            vectors = await pooling.each(rows, self._pool)
        shaped = (pooling.shaped(vector, dimensions, normalize=normalize) for vector in vectors)
        return Embeddings(tuple(shaped), tuple(map(len, rows)))

    async def _pool(self, ids: Ids[int]) -> "array[float]":
        stream = await self._intake.open(pooling.reading_of(ids), self._clock())
        vector = stream.siblings[0].sequence.pooled = array("f")
        stream.admitted_tokens = 0  # all texts of the call were let in together
        with self._running(stream):
            await stream.next()
        return vector

    @contextmanager
    def _running(self, stream: Stream) -> Iterator[None]:
        """The answers of `stream` are written while the block runs; those that it does not wait for end with it."""
        if self._aborted:
            raise _cancelled()
        if stream.admitted_tokens:
            self._admission.enter(stream.admitted_tokens)
        self._tell(lambda: self._begin(stream))
        try:
            yield
        finally:
            self._leave_admission(stream)
            if stream.unfinished:
                self._tell(lambda: self._drop(stream))

    def cache_use(self) -> CacheUse:
        """What the cache takes, now."""
        return self._cache.use() if self._cache is not None else CacheUse(0, 0, 0)

    async def give_back_cache(self) -> None:
        """Give back the memory of the cache that no request uses, prefixes of earlier ones included."""
        if self._cache is not None:
            await self._thread.submit(self._cache.give_back)

    def abort(self) -> None:
        """End all work, for good: every generator, open or yet to be opened, raises RequestCancelled."""
        self._aborted = True
        self._tell(lambda: self._fail_all(_cancelled()))

    async def close(self) -> None:
        """Leave the owner thread and drop the weights. No generator may be open."""
        await self._thread.detach(self)
        self._intake.close()
        if self._cache is not None:
            self._cache.close()
        self._runner = self._cache = None

    def _leave_admission(self, stream: Stream) -> None:
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
        self._outbox.deliver()
        return bool(self._scheduler.running or self._scheduler.waiting)

    def _begin(self, stream: Stream) -> None:
        if self._runner is None:
            stream.siblings.clear()
            self._outbox.put(stream, EngineUnavailable("the model is being unloaded: ask again"))
            return
        self._enter(stream.siblings.pop(0))

    def _enter(self, answer: Answer) -> None:
        answer.stream.begun.append(answer)
        self._answers[answer.sequence.id] = answer
        self._sampler.begin(answer.sequence, answer.grammar)
        self._scheduler.add(answer.sequence)

    def _advance(self) -> None:
        step = self._scheduler.schedule()
        if not step.work:
            if (stranded := self._scheduler.stranded) is not None:
                self._fail(stranded, Overloaded("the memory for a text this long is in use by other models: try again"))
            return
        assert self._runner is not None
        now = self._clock()
        for work in step.work:
            if work.sequence.started is None:
                work.sequence.started = now
        sampling = [work.sequence for work in step.work if work.samples]
        try:
            samples = self._sampler.sample(self._runner.run(step), sampling)
        except Exception as error:
            log.exception("a step of %s failed", self._info.id)
            for work in step.work:
                self._fail(
                    work.sequence, GenerationFailed(f"the model failed while generating: {type(error).__name__}")
                )
            return
        self._scheduler.complete(step)
        for row, (sequence, token) in enumerate(zip(sampling, samples.tokens, strict=True)):
            self._take(sequence, token, samples.ranked.get(row))

    def _take(self, sequence: Sequence, token: int | GenerationFailed, ranked: Ranked | None) -> None:
        answer = self._answers.get(sequence.id)
        if answer is None:
            return  # it shared a request with one that failed in this step
        if sequence.first_token is None:
            sequence.first_token = self._clock()
            self._begin_siblings(answer.stream)
        if isinstance(token, GenerationFailed):
            self._fail(sequence, token)
            return
        if sequence.max_new_tokens == 0:
            self._finish(answer, FinishReason.LENGTH, None)
            return
        try:
            chunk, reason = answer.take(token, ranked)
        except GenerationFailed as error:
            self._fail(sequence, error)
            return
        if reason is not None:
            self._finish(answer, reason, chunk)
        elif chunk is not None:
            self._outbox.put(answer.stream, chunk)

    def _begin_siblings(self, stream: Stream) -> None:
        """The prompt is in the cache now: the other answers to it share its blocks."""
        siblings, stream.siblings = stream.siblings, []
        for sibling in siblings:
            self._enter(sibling)

    def _finish(self, answer: Answer, reason: FinishReason, last: TextChunk | None) -> None:
        self._end(answer.sequence, reason)
        self._outbox.put(answer.stream, answer.close(last, reason, self._clock()))

    def _end(self, sequence: Sequence, reason: FinishReason | None) -> None:
        """Take a sequence out; without a reason it was aborted."""
        self._scheduler.finish(sequence, reason)
        self._sampler.forget(sequence)
        self._answers.pop(sequence.id, None)

    def _drop(self, stream: Stream) -> None:
        """End whatever of a request has not ended: nobody listens any more, or one of its answers failed."""
        stream.siblings.clear()
        for answer in stream.begun:
            self._end(answer.sequence, None)

    def _fail(self, sequence: Sequence, error: IngleError) -> None:
        answer = self._answers.get(sequence.id)
        if answer is not None:
            self._drop(answer.stream)
            self._outbox.put(answer.stream, error)

    def _fail_all(self, error: IngleError) -> None:
        for sequence in list(self._scheduler.alive()):
            self._fail(sequence, error)

    def _expire(self) -> None:
        now = self._clock()
        for sequence in list(self._scheduler.alive()):
            if sequence.deadline is None or now < sequence.deadline or sequence.id not in self._answers:
                continue
            answer = self._answers[sequence.id]
            if answer.stream.has_text:
                self._finish(answer, FinishReason.LENGTH, None)
            else:
                self._fail(sequence, DeadlineExceeded("the deadline passed before the first token"))


def _cancelled() -> RequestCancelled:
    return RequestCancelled("the model was unloaded while this request ran")

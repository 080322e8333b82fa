"""The text engine: requests in, chunk streams out; many requests share each step of the owner thread."""

import asyncio
import queue
import time
from array import array
from collections.abc import AsyncGenerator, Callable, Iterator
from collections.abc import Sequence as Ids
from contextlib import contextmanager

from domain.embedding import EmbeddingInput, Embeddings, check_inputs
from domain.errors import EngineUnavailable, IngleError, RequestCancelled
from domain.generation import GenerationRequest, TextChunk
from domain.model import Model
from domain.prompt import Prompt
from models.inference_thread import InferenceThread
from models.text import pooling
from models.text.admission import Admission
from models.text.answer import Stream
from models.text.answering import Answering
from models.text.cache_memory import CacheMemory, CacheUse
from models.text.execution import StepRunner
from models.text.intake import Intake
from models.text.parked import Kept
from models.text.scheduler import Scheduler
from models.text.tokenizer import TextTokenizer

_TICK = 0.25
"""How often, in seconds, a suspended engine looks whether a deadline has passed."""


class TextEngine:
    """Implements `application.ports.TextModel` over a scheduler, a runner and a sampler.

    Callers talk to it on an event loop; everything that touches the scheduler runs on the owner thread, which
    takes new requests and aborts from an inbox between two steps. While it is suspended there is nothing to step with:
    requests wait, whether they have begun or not.
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
        kept: Kept | None = None,
    ) -> None:
        """`cache` is None for a runner that keeps none; `dimensions` is the width of the model's hidden states.

        `kept` are the weights, if they can be parked.
        """
        self._info = info
        self._dimensions = dimensions
        self._tokenizer = tokenizer
        self._cache = cache
        self._kept = kept
        self._intake = Intake(tokenizer, info.context_length, guesses=scheduler.limits.guesses > 0)
        self._runner: StepRunner | None = runner
        self._thread = thread
        self._admission = admission
        self._clock = clock
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._answering = Answering(scheduler, lambda: self._clock(), str(info.id), self._awaits_memory)
        self._aborted = False
        self._is_suspended = False
        self._ticking: asyncio.TimerHandle | None = None
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
                self._tell(lambda: self._answering.drop(stream))

    def cache_use(self) -> CacheUse:
        """What the cache takes, now."""
        return self._cache.use() if self._cache is not None else CacheUse(0, 0, 0)

    async def give_back_cache(self) -> None:
        """Give back the memory of the cache that no request uses, prefixes of earlier ones included."""
        if self._cache is not None:
            await self._thread.submit(self._cache.give_back)

    def abort(self, error: IngleError | None = None) -> None:
        """End all work, for good: every generator, open or yet to be opened, raises RequestCancelled.

        Those that are open raise `error` instead, if there is one.
        """
        self._aborted = True
        self._tell(lambda: self._answering.fail_all(error or _cancelled()))

    async def suspend(self) -> Kept | None:
        """Stop after the step under way, and drop the cache and the weights; open generators wait for `resume`.

        Returns the weights as `close` does.
        """
        await self._thread.submit(self._lie_down)
        self._tick()
        kept, self._kept = self._kept, None
        return kept

    async def resume(self, fresh: "TextEngine") -> None:
        """Go on with the weights and the cache of `fresh`, the same model loaded anew, which is of no use afterwards.

        What the cache held is computed again.
        """
        await fresh._thread.detach(fresh)
        fresh._intake.close()
        await self._thread.detach(self)
        # Between the two threads nobody steps.
        self._thread = fresh._thread
        self._answering.scheduler.blocks = fresh._answering.scheduler.blocks
        self._runner, self._cache, self._kept = fresh._runner, fresh._cache, fresh._kept
        fresh._runner = fresh._cache = fresh._kept = None
        self._info = fresh._info
        self._intake.bound(self._info.context_length)
        self._stop_ticking()
        self._is_suspended = False
        self._thread.attach(self)

    def _tick(self) -> None:
        """Deadlines pass also while nothing else wakes the thread."""
        self._thread.wake()
        self._ticking = asyncio.get_running_loop().call_later(_TICK, self._tick)

    def _stop_ticking(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        self._ticking = None

    async def close(self) -> Kept | None:
        """Leave the owner thread, drop the cache and the weights. No generator may be open.

        Returns the weights if they can be parked; they go unless the caller does that.
        """
        self._stop_ticking()
        await self._thread.detach(self)
        self._intake.close()
        if self._cache is not None:
            self._cache.close()
        kept, self._kept = self._kept, None
        self._runner = self._cache = None
        return kept

    def _leave_admission(self, stream: Stream) -> None:
        if stream.admitted_tokens:
            self._admission.leave(stream.admitted_tokens)
            stream.admitted_tokens = 0

    def _tell(self, message: Callable[[], None]) -> None:
        self._inbox.put(message)
        self._thread.wake()

    # -- the owner thread's side ----------------------------------------------------------------------

    def step(self) -> bool:
        """One forward pass for everybody; True while there is more to do that needs no memory of others."""
        while not self._inbox.empty():
            self._inbox.get()()
        if self._is_suspended:
            self._answering.rest()
            return False
        self._answering.step(self._runner)
        return self._answering.can_go_on

    def _lie_down(self) -> None:
        self._is_suspended = True
        self._answering.scheduler.preempt_all()
        if self._cache is not None:
            self._cache.close()
        self._runner = self._cache = None

    def _awaits_memory(self) -> bool:
        return self._cache is not None and self._cache.awaits_more

    def _begin(self, stream: Stream) -> None:
        if self._runner is None and not self._is_suspended:
            self._answering.refuse(stream, EngineUnavailable("the model is being unloaded: ask again"))
        else:
            self._answering.begin(stream)


def _cancelled() -> RequestCancelled:
    return RequestCancelled("the model was unloaded while this request ran")

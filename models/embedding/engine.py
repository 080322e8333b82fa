"""The embedding engine as its callers meet it: texts in, vectors out, everybody's texts in shared passes."""

import asyncio
import logging
import queue
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from domain.embedding import EmbeddingInput, Embeddings, check_inputs
from domain.errors import (
    EngineUnavailable,
    GenerationFailed,
    IngleError,
    InvalidRequest,
    Overloaded,
    RequestCancelled,
)
from domain.model import Model
from models.embedding.batching import Backlog, Work
from models.embedding.encoder import Encoder
from models.embedding.tokenizer import EncoderTokenizer
from models.inference_thread import InferenceThread

log = logging.getLogger(__name__)

# Up to this many characters are encoded on the event loop: a thread would cost more.
_ENCODE_INLINE = 2048
# So many characters go to a thread at a time: whoever has left holds it no longer than that takes.
_ENCODE_CHUNK = 1 << 18
# Before anything was measured: how many tokens a second the engine is assumed to get through.
_ASSUMED_TOKENS_PER_SECOND = 5000.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Tokens (with padding) of one pass, requests in flight, and tokens that may wait to be read."""

    step_tokens: int
    max_requests: int
    max_waiting_tokens: int


@dataclass(slots=True, eq=False, kw_only=True)
class _Request(Work):
    """One call of `embed`: its rows, its vectors so far, and the future that its caller waits for."""

    future: "asyncio.Future[Embeddings]"
    loop: asyncio.AbstractEventLoop
    dimensions: int | None
    normalize: bool
    vectors: dict[int, torch.Tensor] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every row has its vector."""
        return len(self.vectors) == len(self.rows)

    def embeddings(self) -> Embeddings | GenerationFailed:
        """The answer, once it is complete; a failure if some vector is not made of numbers."""
        vectors = torch.stack([self.vectors[row] for row in range(len(self.rows))])
        if not torch.isfinite(vectors).all():
            return GenerationFailed("the model produced no valid numbers for this input")
        vectors = vectors[:, : self.dimensions]
        if self.normalize:
            vectors = functional.normalize(vectors, dim=1)
        return Embeddings(tuple(array("f", vector.numpy().tobytes()) for vector in vectors), tuple(map(len, self.rows)))


class EmbeddingEngine:
    """Implements `application.ports.EmbeddingModel` over an encoder on the owner thread of its device.

    Callers talk to it on an event loop. The backlog and the encoder belong to the owner thread, which takes
    new requests and departures from an inbox between two passes.
    """

    def __init__(
        self,
        info: Model,
        dimensions: int,
        tokenizer: EncoderTokenizer,
        encoder: Encoder,
        thread: InferenceThread,
        bounds: Bounds,
    ) -> None:
        """`dimensions` is the length of the encoder's vectors."""
        self._info = info
        self._dimensions = dimensions
        self._tokenizer = tokenizer
        self._encoder: Encoder | None = encoder
        self._thread = thread
        self._bounds = bounds
        self._requests: set[_Request] = set()
        self._aborted = False
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._backlog: Backlog[_Request] = Backlog(self._bounds.step_tokens)
        thread.attach(self)

    # -- the caller's side --------------------------------------------------------------------------

    @property
    def info(self) -> Model:
        """The entity."""
        return self._info

    @property
    def dimensions(self) -> int:
        """The length of the model's own vectors."""
        return self._dimensions

    @property
    def waiting(self) -> int:
        """How many requests are admitted and have no vector yet."""
        return sum(not request.vectors for request in self._requests)

    async def embed(
        self,
        texts: Sequence[EmbeddingInput],
        *,
        truncate: bool = True,
        dimensions: int | None = None,
        normalize: bool = True,
    ) -> Embeddings:
        """One vector for each text; see `application.ports.EmbeddingModel` for the contract."""
        check_inputs(texts, dimensions)
        if self._aborted:
            raise RequestCancelled("the model was unloaded while this request waited")
        if self._encoder is None:
            raise EngineUnavailable("the model is being unloaded: ask again")
        if len(self._requests) >= self._bounds.max_requests:
            raise self._overloaded(f"{len(self._requests)} requests are in flight already")
        loop = asyncio.get_running_loop()
        request = _Request(future=loop.create_future(), loop=loop, dimensions=dimensions, normalize=normalize)
        self._requests.add(request)
        try:
            rows = await self._encode(texts, truncate, request)
            self._admit(rows)
            request.fill(rows)
            self._tell(lambda: self._backlog.add(request))
            return await request.future
        finally:
            self._requests.discard(request)
            if request.pending:
                self._tell(lambda: self._backlog.discard(request))
            _retrieve(request.future)

    def abort(self) -> None:
        """End all work, for good: every call, open or yet to come, raises RequestCancelled. On the event loop."""
        self._aborted = True
        for request in self._requests:
            _settle(request.future, RequestCancelled("the model was unloaded while this request ran"))

    async def close(self) -> None:
        """Leave the owner thread and drop the weights. No call may be open."""
        await self._thread.detach(self)
        self._encoder = None

    async def _encode(self, texts: Sequence[EmbeddingInput], truncate: bool, request: _Request) -> list[list[int]]:
        def encode(some: Sequence[EmbeddingInput]) -> list[list[int]]:
            return self._tokenizer.encode(some, self._info.context_length, truncate=truncate)

        if sum(map(len, texts)) <= _ENCODE_INLINE:
            rows = encode(texts)
        else:
            rows = []
            for some in _chunks(texts):
                rows += await asyncio.to_thread(encode, some)
                if request.future.done():  # aborted meanwhile
                    break
        empty = next((number for number, row in enumerate(rows) if not row), None)
        if empty is not None:
            raise InvalidRequest(f"input {empty} is empty after tokenising", field="input")
        return rows

    def _admit(self, rows: list[list[int]]) -> None:
        """Raises Overloaded when too much waits already; what fits into one pass is never too much."""
        waiting = sum(request.tokens_left for request in self._requests)
        tokens = sum(map(len, rows))
        if waiting and tokens > self._bounds.step_tokens and waiting + tokens > self._bounds.max_waiting_tokens:
            raise self._overloaded(f"{waiting} tokens are waiting already")

    def _overloaded(self, reason: str) -> Overloaded:
        seconds = sum(request.tokens_left for request in self._requests) / _ASSUMED_TOKENS_PER_SECOND
        return Overloaded(f"the server is busy: {reason}", retry_after_seconds=min(30.0, max(1.0, seconds)))

    def _tell(self, message: Callable[[], None]) -> None:
        self._inbox.put(message)
        self._thread.wake()

    # -- the owner thread's side ----------------------------------------------------------------------

    def step(self) -> bool:
        """One pass over some of everybody's texts; True while there is more to do."""
        while not self._inbox.empty():
            self._inbox.get()()
        batch = self._backlog.next_batch()
        if batch:
            self._run(batch)
        return len(self._backlog) > 0

    def _run(self, batch: list[tuple[_Request, int]]) -> None:
        assert self._encoder is not None
        try:
            vectors = self._encoder.vectors([request.rows[row] for request, row in batch])
        except Exception as error:
            log.exception("a pass of %s failed", self._info.id)
            for request in {request for request, _ in batch}:
                self._backlog.discard(request)
                _answer(request, GenerationFailed(f"the model failed while embedding: {type(error).__name__}"))
            return
        for (request, row), vector in zip(batch, vectors, strict=True):
            request.vectors[row] = vector
            if request.is_complete:
                _answer(request, request.embeddings())


def _chunks(texts: Sequence[EmbeddingInput]) -> list[Sequence[EmbeddingInput]]:
    """`texts` in pieces of about `_ENCODE_CHUNK` characters; a longer text is a piece of its own."""
    chunks: list[Sequence[EmbeddingInput]] = []
    begin, size = 0, 0
    for end, text in enumerate(texts):
        if size and size + len(text) > _ENCODE_CHUNK:
            chunks.append(texts[begin:end])
            begin, size = end, 0
        size += len(text)
    return [*chunks, texts[begin:]]


def _answer(request: _Request, answer: Embeddings | IngleError) -> None:
    if not request.loop.is_closed():
        request.loop.call_soon_threadsafe(_settle, request.future, answer)


def _settle(future: "asyncio.Future[Embeddings]", answer: Embeddings | IngleError) -> None:
    if future.done():
        return
    if isinstance(answer, IngleError):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _retrieve(future: "asyncio.Future[Embeddings]") -> None:
    """The caller is done with it: an answer that comes later, or came unseen, has nobody to go to."""
    if not future.cancel() and not future.cancelled():
        future.exception()

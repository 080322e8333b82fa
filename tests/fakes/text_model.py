"""A causal language model that says what the test wants."""

import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from domain.embedding import EmbeddingInput, Embeddings, check_inputs
from domain.errors import ContextLengthExceeded, DeadlineExceeded, InvalidRequest
from domain.generation import (
    Finish,
    FinishReason,
    GenerationRequest,
    PromptToken,
    TextChunk,
    Timings,
    TokenLogprob,
    Usage,
)
from domain.model import Model
from domain.prompt import Chat, Continuation, FillInMiddle, Prompt, RawText, TokenIds
from domain.tools import ToolCall
from tests.fakes.embedding_model import vector_of
from tests.fakes.gate import Gate
from tests.fakes.loaded import FakeLoadedModel, Work

VOCABULARY_SIZE = 32_000
DIMENSIONS = 24


@dataclass
class TextScript:
    """What a FakeTextModel answers; shared by every load of the same model, changeable at any time.

    `chunks` None echoes the text of the last message, word by word; one chunk counts as one token.
    Each of a request's `n` answers is the same; a constraint is not obeyed.
    `thinking` is told before all chunks, in one of its own, `tool_calls` with the last one.
    `before_first` holds a request in the queue, `between` holds it before each later chunk.
    `guessed` are the tokens that were guessed right and wrong.
    `error` is raised before chunk number `error_after` (0 = before the first one).
    """

    chunks: Sequence[str] | None = None
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    before_first: Gate = field(default_factory=Gate)
    between: Gate = field(default_factory=Gate)
    error: Exception | None = None
    error_after: int = 0
    cached_tokens: int = 0
    guessed: tuple[int, int] = (0, 0)


def text_of(prompt: Prompt) -> str:
    """What the fake reads of a prompt: the raw text, or the last message."""
    match prompt:
        case RawText(text):
            return text
        case Chat(messages):
            return messages[-1].content
        case Continuation(_, then):
            return text_of(then)
        case TokenIds(ids):
            return " ".join(map(str, ids))
        case FillInMiddle(before, after):
            return before + after


def words(text: str) -> list[str]:
    """The fake's tokens: words with the space before them."""
    return re.findall(r"\s*\S+|\s+$", text)


def token_ids(prompt: Prompt) -> list[int]:
    """The fake's tokenizer: one id for each word of every message."""
    match prompt:
        case RawText(text):
            return [token_id(word) for word in words(text)]
        case Chat(messages):
            return [token_id(word) for message in messages for word in words(message.content)]
        case Continuation(before, then):
            return [*before, *token_ids(then)]
        case TokenIds(ids):
            return list(ids)
        case FillInMiddle():
            return [token_id(word) for word in words(text_of(prompt))]


def token_id(word: str) -> int:
    """A word's id: stable and inside the vocabulary; different words may share one."""
    return sum(word.encode("utf-8", "surrogatepass")) % VOCABULARY_SIZE


def until_stop(pieces: Sequence[str], stops: Sequence[str]) -> list[str]:
    """`pieces`, cut before the first stop string in them."""
    text = "".join(pieces)
    left = min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))
    kept: list[str] = []
    for piece in pieces:
        if left <= 0:
            break
        kept.append(piece[:left])
        left -= len(piece)
    return kept


def logprobs_of(request: GenerationRequest, piece: str) -> tuple[TokenLogprob, ...]:
    """Made-up probabilities of a piece, if they were asked for: alternative number i has half of the one before."""
    if request.sampling.logprobs is None or not piece:
        return ()
    top = tuple(
        TokenLogprob(index, text, text.encode(), -0.7 * index)
        for index, text in enumerate([piece, *"abcdefghijklmnopqrst"][: request.sampling.logprobs])
    )
    return (TokenLogprob(token_id(piece), piece, piece.encode(), 0.0, top),)


def prompt_tokens(request: GenerationRequest) -> tuple[PromptToken, ...]:
    """Made-up probabilities of the prompt, if they were asked for; the first token has none."""
    if request.prompt_logprobs is None:
        return ()
    told = []
    for place, (identity, word) in enumerate(
        zip(token_ids(request.prompt), words(text_of(request.prompt)), strict=True)
    ):
        top = tuple(
            TokenLogprob(index, "abcde"[index], "abcde"[index].encode(), -float(index))
            for index in range(request.prompt_logprobs)
        )
        told.append(PromptToken(identity, word, word.encode(), None if place == 0 else -0.5, top if place else ()))
    return tuple(told)


class FakeTextModel(FakeLoadedModel):
    """A TextModel. `requests` keeps every request that it was given, in order."""

    def __init__(self, info: Model, script: TextScript, violations: list[str] | None = None) -> None:
        super().__init__(info, [] if violations is None else violations)
        self.script = script
        self.requests: list[GenerationRequest] = []

    async def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """One for each word."""
        self.check_usable()
        return tuple(token_ids(prompt))

    async def decode(self, ids: Sequence[int]) -> str:
        """The ids as numbers: the fake's words cannot be told from their ids."""
        self.check_usable()
        if any(not 0 <= token < VOCABULARY_SIZE for token in ids):
            raise InvalidRequest("tokens holds a token id outside the vocabulary", field="tokens")
        return " ".join(map(str, ids))

    @property
    def dimensions(self) -> int:
        """The length of the vectors."""
        return DIMENSIONS

    async def embed(
        self,
        texts: Sequence[EmbeddingInput],
        *,
        truncate: bool = True,
        dimensions: int | None = None,
        normalize: bool = True,
    ) -> Embeddings:
        """One vector for each text, made of all its words."""
        check_inputs(texts, dimensions)
        async with self.working(None) as work:
            room = self.info.context_length - 1
            rows = [token_ids(RawText(text) if isinstance(text, str) else TokenIds(tuple(text))) for text in texts]
            if any(not 0 <= token < VOCABULARY_SIZE for row in rows for token in row):
                raise InvalidRequest("input holds a token id outside the vocabulary", field="input")
            longest = max(map(len, rows))
            if longest > room and not truncate:
                raise ContextLengthExceeded(longest, self.info.context_length)
            await self.admit(work, self.script.before_first)
            if self.script.error is not None:
                raise self.script.error
            read = [row[:room] for row in rows]
            vectors = (vector_of([str(token) for token in row], DIMENSIONS, dimensions, normalize) for row in read)
            return Embeddings(tuple(vectors), tuple(map(len, read)))

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TextChunk, None]:
        """Answer by the script; the last piece carries `finish`. Nothing happens before the first step."""
        async with self.working(request.timeout_seconds) as work:
            self.requests.append(request)
            prompt_ids = token_ids(request.prompt)
            pieces, reason = self._plan(request, prompt_ids)
            sent: list[str] = []
            prompt = prompt_tokens(request)
            try:
                for index, piece in enumerate(pieces):
                    await self._pace(work, index)
                    sent.append(piece)
                    if index == 0 and self.script.thinking:
                        for answer in range(request.n):
                            yield TextChunk("", None, answer, thinking=self.script.thinking, prompt=prompt)
                        prompt = ()
                    if index < len(pieces) - 1:
                        for answer in range(request.n):
                            yield TextChunk(piece, None, answer, logprobs_of(request, piece), prompt=prompt)
                        prompt = ()
            except DeadlineExceeded:
                if not sent:
                    raise
                for answer in range(request.n):
                    yield TextChunk("", self._finish(work, FinishReason.LENGTH, prompt_ids, sent), answer)
                return
            for answer in range(request.n):
                finish = self._finish(work, reason, prompt_ids, sent)
                logprobs = logprobs_of(request, sent[-1])
                yield TextChunk(sent[-1], finish, answer, logprobs, tool_calls=self.script.tool_calls, prompt=prompt)

    def _plan(self, request: GenerationRequest, prompt_ids: Sequence[int]) -> tuple[list[str], FinishReason]:
        """The pieces to send (at least one) and why the answer ends there."""
        if any(not 0 <= token_id < VOCABULARY_SIZE for token_id in prompt_ids):
            raise InvalidRequest(f"token ids must be between 0 and {VOCABULARY_SIZE - 1}", field="context")
        context_length = min(self.info.context_length, request.num_ctx or self.info.context_length)
        if len(prompt_ids) >= context_length:
            raise ContextLengthExceeded(len(prompt_ids), context_length)
        chunks = words(text_of(request.prompt)) if self.script.chunks is None else self.script.chunks
        pieces = until_stop(chunks, request.sampling.stop)
        room = context_length - len(prompt_ids)
        if request.sampling.max_tokens is not None:
            room = min(room, request.sampling.max_tokens)
        reason = FinishReason.STOP if len(pieces) <= room else FinishReason.LENGTH
        return pieces[:room] or [""], reason

    async def _pace(self, work: Work, index: int) -> None:
        """Wait, or fail, before the chunk with that index as the script says."""
        if index == 0:
            await self.admit(work, self.script.before_first)
        else:
            await work.pause(self.script.between)
        if self.script.error is not None and index == self.script.error_after:
            raise self.script.error

    def _finish(self, work: Work, reason: FinishReason, prompt_ids: Sequence[int], sent: Sequence[str]) -> Finish:
        answer_ids = [token_id(piece) for piece in sent if piece]
        cached = min(self.script.cached_tokens, len(prompt_ids))
        thought = len(words(self.script.thinking))
        usage = Usage(len(prompt_ids), len(answer_ids) + thought, cached, thought, *self.script.guessed)
        return Finish(reason, usage, Timings(decode=work.seconds()), (*prompt_ids, *answer_ids))

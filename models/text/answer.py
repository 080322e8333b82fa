"""From tokens to what a caller sees: the text of each answer, its probabilities, and the way back to the event loop."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from domain.errors import IngleError
from domain.generation import Finish, FinishReason, TextChunk, Timings, TokenLogprob, Usage
from models.text.grammar import Grammar
from models.text.sampler import Ranked
from models.text.sequence import Sequence
from models.text.tokenizer import TextStream, TextTokenizer

Item = TextChunk | IngleError


@dataclass(slots=True, eq=False)
class Stream:
    """One request: the caller's end of it, and the answers that have not begun because the first reads the prompt."""

    loop: asyncio.AbstractEventLoop
    items: "asyncio.Queue[Item]"
    arrival: float
    admitted_tokens: int
    siblings: list["Answer"] = field(default_factory=list)
    begun: list["Answer"] = field(default_factory=list)

    @property
    def has_text(self) -> bool:
        """Whether any of the answers has a token."""
        return any(answer.sequence.new_tokens for answer in self.begun)


@dataclass(slots=True, eq=False)
class Answer:
    """One answer to a request; only the owner thread touches it once it has begun."""

    index: int
    stream: Stream
    sequence: Sequence
    text: TextStream
    grammar: Grammar | None = None
    logprobs: "HeldLogprobs | None" = None

    def take(self, token: int, ranked: Ranked | None) -> tuple[TextChunk | None, FinishReason | None]:
        """Go on with `token`: what may be shown now, if anything, and why the answer is over, if it is.

        Raises GenerationFailed if the grammar refuses the token.
        """
        reason = self.sequence.append(token, may_end=self.grammar is None or self.grammar.accepting)
        if reason is FinishReason.STOP:
            return None, reason
        if self.grammar is not None:
            self.grammar.consume(token)
            if self.grammar.finished:
                reason = FinishReason.STOP
        text = self.text.push(token, watch=self.sequence.new_tokens > self.sequence.params.min_tokens)
        if self.text.stopped:
            reason = FinishReason.STOP
        if self.logprobs is None:
            return (TextChunk(text, None, self.index) if text else None), reason
        assert ranked is not None
        visible = self.logprobs.take(ranked, self.text)
        return (TextChunk(text, None, self.index, visible) if text else None), reason

    def close(self, last: TextChunk | None, reason: FinishReason, now: float) -> TextChunk:
        """The last chunk: `last`, what was still held back, and the figures."""
        text, visible = (last.text, last.logprobs) if last is not None else ("", ())
        text += self.text.flush()
        if self.logprobs is not None and not self.text.stopped:
            visible += self.logprobs.flush()
        sequence = self.sequence
        started = sequence.started or now
        first = sequence.first_token or now
        finish = Finish(
            reason,
            Usage(sequence.prompt_length, sequence.new_tokens, sequence.cached),
            Timings(queue=started - self.stream.arrival, prompt=first - started, decode=now - first),
            tuple(sequence.ids),
        )
        return TextChunk(text, finish, self.index, visible)


class HeldLogprobs:
    """The probabilities of an answer's tokens, each held back until the token's whole text may be shown.

    So they tell no more of a stop string than the text does.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._unread: list[TokenLogprob] = []
        self._held: deque[tuple[int, TokenLogprob]] = deque()
        self._decoded = 0

    def take(self, ranked: Ranked, text: TextStream) -> tuple[TokenLogprob, ...]:
        """Add the token that `text` was just given; what may be shown now."""
        top = tuple(self._named(token, logprob) for token, logprob in ranked.top)
        self._unread.append(self._named(ranked.token, ranked.logprob, top))
        if text.decoded > self._decoded:
            self._decoded = text.decoded
            self._held.extend((self._decoded, token) for token in self._unread)
            self._unread.clear()
        visible = []
        while self._held and self._held[0][0] <= text.shown:
            visible.append(self._held.popleft()[1])
        return tuple(visible)

    def flush(self) -> tuple[TokenLogprob, ...]:
        """All that is left, when the answer ends with all of its text."""
        left = (*(token for _, token in self._held), *self._unread)
        self._held.clear()
        self._unread.clear()
        return left

    def _named(self, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        raw = self._tokenizer.token_bytes(token)
        return TokenLogprob(token, raw.decode(errors="replace"), raw, logprob, top)


class Outbox:
    """What a step has for its callers, handed over with one wake-up for each event loop."""

    def __init__(self) -> None:
        self._items: list[tuple[Stream, Item]] = []

    def put(self, stream: Stream, item: Item) -> None:
        """Keep `item` until the step is over."""
        self._items.append((stream, item))

    def deliver(self) -> None:
        """Hand everything over."""
        items, self._items = self._items, []
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Stream, Item]]] = {}
        for stream, item in items:
            by_loop.setdefault(stream.loop, []).append((stream, item))
        for loop, batch in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_put_all, batch)


def _put_all(items: list[tuple[Stream, Item]]) -> None:
    for stream, item in items:
        stream.items.put_nowait(item)

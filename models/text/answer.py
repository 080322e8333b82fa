"""From tokens to what a caller sees: the text of each answer, its probabilities, and the way back to the event loop."""

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace

from domain.errors import IngleError
from domain.generation import Finish, FinishReason, PromptToken, TextChunk, Timings, TokenLogprob, Usage
from models.text.guidance import Form
from models.text.reading import AnswerReader, Reading
from models.text.sampler import Ranked
from models.text.sequence import Sequence
from models.text.shown_logprobs import HeldLogprobs, PromptTelling

Item = TextChunk | IngleError


@dataclass(slots=True, eq=False)
class Stream:
    """One request: the caller's end of it, and the answers that have not begun because the first reads the prompt.

    `unfinished` counts the answers whose end the caller has not seen.
    """

    loop: asyncio.AbstractEventLoop
    arrival: float
    admitted_tokens: int
    siblings: list["Answer"] = field(default_factory=list)
    begun: list["Answer"] = field(default_factory=list)
    prompt: PromptTelling | None = None
    unfinished: int = 1
    _items: deque[Item] = field(default_factory=deque)
    _waiter: "asyncio.Future[None] | None" = None

    def put(self, item: Item) -> None:
        """Hand the caller its next item; only on its event loop."""
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> TextChunk:
        """The next chunk of any of the answers. Raises what ended them before. One caller at a time."""
        if not self._items:
            self._waiter = self.loop.create_future()
            await self._waiter
        item = self._items.popleft()
        if isinstance(item, IngleError):
            raise item
        self.unfinished -= item.finish is not None
        return item

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
    reader: AnswerReader
    grammar: Form | None = None
    logprobs: HeldLogprobs | None = None
    reasoning_tokens: int = 0
    has_told_prompt: bool = False

    def take(self, token: int, ranked: Ranked | None) -> tuple[TextChunk | None, FinishReason | None]:
        """Go on with `token`: what may be shown now, if anything, and why the answer is over, if it is.

        Raises GenerationFailed if the grammar refuses the token.
        """
        reason = self.sequence.append(token, may_end=self.grammar is None or self.grammar.accepting)
        if reason is FinishReason.STOP:
            return None, reason
        if self.grammar is not None:
            self.grammar.consume(token)
        was_thinking = self.reader.is_thinking
        reading = self.reader.read(token, watch=self.sequence.new_tokens > self.sequence.params.min_tokens)
        self.reasoning_tokens += was_thinking or self.reader.is_thinking
        if self.grammar is not None:
            self.grammar.follow()
            if self.grammar.finished:
                reason = FinishReason.STOP
        if self.reader.stopped:
            reason = FinishReason.STOP
        visible: tuple[TokenLogprob, ...] = ()
        if self.logprobs is not None:
            assert ranked is not None
            visible = self.logprobs.take(ranked, self.reader, reading.parts)
        return (None if reading.is_empty else self._chunk(reading, visible)), reason

    def close(self, last: TextChunk | None, reason: FinishReason, now: float) -> TextChunk:
        """The last chunk: `last`, what was still held back, and the figures."""
        rest = self.reader.finish()
        visible = () if self.logprobs is None else self.logprobs.finish(self.reader, rest.parts)
        chunk = self._chunk(rest, visible)
        if last is not None:
            chunk = replace(
                last,
                text=last.text + chunk.text,
                logprobs=last.logprobs + chunk.logprobs,
                thinking=last.thinking + chunk.thinking,
                tool_calls=last.tool_calls + chunk.tool_calls,
            )
        sequence = self.sequence
        started = sequence.started or now
        first = sequence.first_token or now
        finish = Finish(
            reason,
            Usage(
                sequence.prompt_length,
                sequence.new_tokens,
                sequence.cached,
                self.reasoning_tokens,
                sequence.accepted,
                sequence.rejected,
            ),
            Timings(queue=started - self.stream.arrival, prompt=first - started, decode=now - first),
            tuple(sequence.ids),
        )
        return replace(chunk, finish=finish)

    def _chunk(self, reading: Reading, logprobs: tuple[TokenLogprob, ...]) -> TextChunk:
        prompt: tuple[PromptToken, ...] = ()
        if self.stream.prompt is not None and not self.has_told_prompt:
            prompt, self.has_told_prompt = self.stream.prompt.tokens(), True
        return TextChunk(
            reading.text,
            None,
            self.index,
            logprobs,
            thinking=reading.thinking,
            tool_calls=reading.calls,
            prompt=prompt,
        )


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
        stream.put(item)

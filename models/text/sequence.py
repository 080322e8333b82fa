"""One request in flight, as the scheduler sees it. No tensors here."""

from array import array
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from enum import StrEnum

from domain.generation import FinishReason, SamplingParams
from models.text.lookup import Lookup
from models.text.prompt_scores import PromptScores


class SequenceStatus(StrEnum):
    """Where a sequence is: admitted, in the running batch, or over."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Sequence:
    """Token ids, how many of them are in the cache, and where.

    Invariants: `computed <= len(ids)`; a sequence whose `computed == len(ids) - 1` is decoding, anything less is
    prefill (after a preemption, of its own answer too); `blocks` hold at least `computed` tokens.
    `stop_ids` end the sequence; before `min_new_tokens` tokens the sampler lets none of them through. With `keeping`
    a sequence whose `ids` fill its `context` goes on without the older half of what comes after so many of them.
    An empty `pooled` is filled with the hidden state of the prompt's last token.
    """

    id: int
    ids: list[int]
    params: SamplingParams
    max_new_tokens: int
    stop_ids: frozenset[int]
    arrival: float
    deadline: float | None = None
    client: str = ""
    priority: int = 0
    min_new_tokens: int = 0
    context: int = 0
    keeping: int | None = None
    scores: PromptScores | None = None
    lookup: Lookup | None = None
    pooled: "array[float] | None" = None
    prompt_length: int = 0
    dropped: int = 0
    computed: int = 0
    cached: int = 0
    accepted: int = 0
    rejected: int = 0
    blocks: list[int] = field(default_factory=list)
    status: SequenceStatus = SequenceStatus.WAITING
    finish_reason: FinishReason | None = None
    started: float | None = None
    first_token: float | None = None
    _answer_start: int = 0

    def __post_init__(self) -> None:
        self.prompt_length = self._answer_start = len(self.ids)

    @property
    def output_ids(self) -> Ids[int]:
        """What has been generated so far, as far as it was not dropped."""
        return self.ids[self._answer_start :]

    @property
    def new_tokens(self) -> int:
        """How many tokens have been generated so far."""
        return len(self.ids) + self.dropped - self.prompt_length

    @property
    def room(self) -> int:
        """How many tokens may still come before the sequence ends or has to shift."""
        left = self.max_new_tokens - self.new_tokens
        return left if self.keeping is None else min(left, self.context - len(self.ids))

    @property
    def is_full(self) -> bool:
        """Whether the sequence must shift before it goes on."""
        return self.keeping is not None and len(self.ids) >= self.context

    @property
    def uncomputed(self) -> int:
        """How many tokens the cache still lacks; 1 while decoding."""
        return len(self.ids) - self.computed

    @property
    def is_scored(self) -> bool:
        """Whether its prompt still has to be scored."""
        return self.scores is not None and not self.scores.are_complete

    def shift(self) -> None:
        """Drop the older half of the tokens after the first `keeping`, of which no more than half the context stay.

        What is left has other positions than before, so its blocks must have been released.
        """
        assert self.keeping is not None and not self.blocks
        kept = min(self.keeping, len(self.ids) // 2)
        count = max(1, (len(self.ids) - kept) // 2)
        del self.ids[kept : kept + count]
        self._answer_start -= max(0, min(kept + count, self._answer_start) - kept)
        self.dropped += count
        if self.lookup is not None:
            self.lookup.forget()

    def append(self, token: int, *, may_end: bool = True) -> FinishReason | None:
        """Take the next token; tells why the sequence is over, if it is.

        The token that ends a sequence is part of `ids`, but not of the text. Where a sequence may not end, a token
        of `stop_ids` is one like any other.
        """
        self.ids.append(token)
        if may_end and token in self.stop_ids:
            return FinishReason.STOP
        if self.new_tokens >= self.max_new_tokens:
            return FinishReason.LENGTH
        return None

"""One request in flight, as the scheduler sees it. No tensors here."""

from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from enum import StrEnum

from domain.generation import FinishReason, SamplingParams


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
    `stop_ids` end the sequence; before `min_new_tokens` tokens the sampler lets none of them through.
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
    prompt_length: int = 0
    computed: int = 0
    cached: int = 0
    blocks: list[int] = field(default_factory=list)
    status: SequenceStatus = SequenceStatus.WAITING
    finish_reason: FinishReason | None = None
    started: float | None = None
    first_token: float | None = None

    def __post_init__(self) -> None:
        self.prompt_length = len(self.ids)

    @property
    def output_ids(self) -> Ids[int]:
        """What has been generated so far."""
        return self.ids[self.prompt_length :]

    @property
    def new_tokens(self) -> int:
        """How many tokens have been generated so far."""
        return len(self.ids) - self.prompt_length

    @property
    def uncomputed(self) -> int:
        """How many tokens the cache still lacks; 1 while decoding."""
        return len(self.ids) - self.computed

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

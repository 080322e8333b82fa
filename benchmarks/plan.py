"""What is measured of each target, and how often."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class What(Enum):
    """The kinds of questions."""

    DECODING = "decoding"
    PROMPT = "long prompt"
    IDLE = "first token, idle"
    BUSY = "first token while others decode"
    HEALTH = "/health while others decode"
    MEMORY = "resident memory"


@dataclass(frozen=True, slots=True)
class Question:
    """What targets are asked in one turn.

    `turns` is how often it is asked in a round. Where it is not `short`, slow targets take part in one of these turns
    only, so that each of them stands beside a measurement of ours that is seconds away.
    """

    what: What
    streams: int = 0
    turns: int = 1
    short: bool = True

    def __str__(self) -> str:
        """For progress."""
        return self.what.value + (f", streams: {self.streams}" if self.streams else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured in each round; lengths in tokens, template included."""

    rounds: int
    streams: tuple[int, ...]
    questions: int
    turns: int = 3
    prompt_tokens: int = 130
    new_tokens: int = 64
    question_tokens: int = 100
    long_prompt: int = 1000
    others: int = 8

    def round(self) -> Sequence[Question]:
        """The questions of a round, in order."""
        return (
            *(self._decoding(streams) for streams in self.streams),
            Question(What.PROMPT, turns=self.turns),
            *(Question(what) for what in (What.IDLE, What.BUSY, What.HEALTH, What.MEMORY)),
        )

    def _decoding(self, streams: int) -> Question:
        """Several turns for the numbers of streams at which ours is held against the kernels or against one answer."""
        often = streams in (1, self.others)
        return Question(What.DECODING, streams, turns=self.turns if often else 1, short=streams == 1)

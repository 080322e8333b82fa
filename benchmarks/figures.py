"""From answers to figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from benchmarks.distribution import percentile
from benchmarks.load import Intrusion
from benchmarks.streaming import Answer


@dataclass(frozen=True, slots=True)
class Decoding:
    """Tokens a second of several streams together.

    `while_decoding` counts what came between the moment when the last stream had begun and the one when the first
    ended, None where no two moments of that kind exist (a server that answers one after the other); `end_to_end` counts
    everything, from the first request to the end of the last answer, None where there are no requests.
    """

    streams: int
    while_decoding: float | None
    end_to_end: float | None

    @property
    def per_stream(self) -> float | None:
        """Tokens a second of each of them while all decode."""
        return None if self.while_decoding is None else self.while_decoding / self.streams

    @property
    def step_seconds(self) -> float | None:
        """How long a token of everybody took."""
        return None if self.while_decoding is None else self.streams / self.while_decoding


@dataclass(frozen=True, slots=True)
class Waits:
    """Times to first token in seconds; `step` is how long a step took between the questions, where others decoded."""

    p50: float
    p99: float
    step: float | None = None

    @property
    def steps(self) -> float | None:
        """The median in step times; None where tokens come in bursts, whose steps nobody sees."""
        return self.p50 / self.step if self.step else None


@dataclass(frozen=True, slots=True)
class Figures:
    """What one target did in one turn. Rates are tokens a second, sizes bytes, times seconds."""

    prompt: float | None = None
    decoding: Mapping[int, Decoding] = field(default_factory=dict)
    idle: Waits | None = None
    busy: Waits | None = None
    health_p99: float | None = None
    rss: int | None = None
    floor_seconds: float | None = None
    """The least that a step of decoding could take in this turn; see `bare_loop`."""


def decoding_of(answers: Sequence[Answer]) -> Decoding:
    """The rates of streams that were asked for at the same time."""
    began = max(answer.arrivals[0] for answer in answers)
    ended = min(answer.arrivals[-1] for answer in answers)
    # A piece of text may hold several tokens.
    inside = sum(
        answer.tokens / len(answer.arrivals) * sum(began < at <= ended for at in answer.arrivals) for answer in answers
    )
    whole = max(answer.ended for answer in answers) - min(answer.sent for answer in answers)
    tokens = sum(answer.tokens for answer in answers)
    return Decoding(len(answers), inside / (ended - began) if ended > began else None, tokens / whole)


def waits_of(answers: Sequence[Answer], step: float | None = None) -> Waits:
    """Times to first token."""
    firsts = sorted(answer.first for answer in answers)
    return Waits(percentile(firsts, 50), percentile(firsts, 99), step)


def undisturbed_step(intrusion: Intrusion) -> float:
    """The median time between two pieces of a stream while no question was being answered, in seconds."""
    disturbed = [(answer.sent, answer.ended) for answer in intrusion.answers]
    gaps = [
        later - earlier
        for arrivals in intrusion.others
        for earlier, later in pairwise(arrivals)
        if not any(began < later and earlier < ended for began, ended in disturbed)
    ]
    return median(gaps)

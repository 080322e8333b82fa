"""What an answer of /generate tells about its making."""

from typing import Any

from api.times import milliseconds
from application.generate_text import GenerationStarted
from domain.generation import Finish, Timings, Usage


def usage_of(usage: Usage) -> dict[str, int]:
    """Tokens read and written."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def timings_of(finish: Finish) -> dict[str, Any]:
    """Where the time went, in milliseconds; tokens per second of writing."""
    timings = finish.timings
    rate = finish.usage.completion_tokens / timings.decode if timings.decode > 0 else 0.0
    return {
        "queue_ms": milliseconds(timings.queue),
        "load_ms": milliseconds(timings.load),
        "prompt_ms": milliseconds(timings.prompt),
        "eval_ms": milliseconds(timings.decode),
        "total_ms": milliseconds(timings.total),
        "tokens_per_second": round(rate, 1),
    }


def queue_headers(started: GenerationStarted, timings: Timings) -> dict[str, str]:
    """How many were before this request on arrival, and how long it waited for them."""
    return _headers(started.queue_position, timings.queue)


class Arrival:
    """The same for a stream, whose headers go before its timings are known.

    The wait is taken from the admission to the first text: an upper bound, as it holds the reading of the
    prompt too. Nobody waited where the queue was empty on arrival.
    """

    def __init__(self) -> None:
        self._position = 0
        self._admitted_at: float | None = None
        self._first_text_at: float | None = None

    def admitted(self, started: GenerationStarted, now: float) -> None:
        """The model has the request, at `now` on a monotonic clock."""
        self._position, self._admitted_at = started.queue_position, now

    def first_text(self, now: float) -> None:
        """The model has begun to write."""
        if self._first_text_at is None:
            self._first_text_at = now

    def headers(self) -> dict[str, str]:
        """As far as they are known when the response begins."""
        waited = 0.0
        if self._position and self._admitted_at is not None and self._first_text_at is not None:
            waited = self._first_text_at - self._admitted_at
        return _headers(self._position, waited)


def _headers(position: int, seconds: float) -> dict[str, str]:
    return {"x-queue-position": str(position), "x-queue-wait-ms": str(milliseconds(seconds))}

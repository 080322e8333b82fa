"""What jobs ask of models beside what their inputs say."""

from domain.job import Job

BELOW_INTERACTIVE = -5
"""Priority of every job at a model: somebody waits for the requests of HTTP."""

_LAST_WORDS = 60.0
_MOST_SECONDS = 86_400.0


def beyond(job: Job) -> float:
    """A time limit that is never reached: an answer that was cut by time must not count as a result."""
    return min(_MOST_SECONDS, job.timeout_ms / 1000 + _LAST_WORDS)

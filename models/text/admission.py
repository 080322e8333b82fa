"""How many requests may wait: overload is refused at the door, not buffered."""

from collections.abc import Iterator
from contextlib import contextmanager

from domain.errors import Overloaded

# Before anything was measured: how many prompt tokens a second the engine is assumed to get through.
_ASSUMED_TOKENS_PER_SECOND = 500.0


class Admission:
    """Counts the requests, and their prompt tokens, that were let in and have not begun.

    Used on the event loop only, so that a refusal does not wait for the engine's step.
    """

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self.requests = 0
        self.tokens = 0

    def enter(self, tokens: int) -> None:
        """Let a request wait. Raises Overloaded when too many requests or prompt tokens wait already."""
        if self.requests >= self._max_requests:
            raise self._refusal(f"{self.requests} requests are waiting already")
        if self.requests and self.tokens + tokens > self._max_tokens:
            raise self._refusal(f"{self.tokens} prompt tokens are waiting already")
        self.requests += 1
        self.tokens += tokens

    def leave(self, tokens: int) -> None:
        """A request has begun, or given up."""
        self.requests -= 1
        self.tokens -= tokens
        assert self.requests >= 0 and self.tokens >= 0

    @contextmanager
    def waiting(self, tokens: int) -> Iterator[None]:
        """A request waits while the block runs. Raises Overloaded as `enter` does."""
        self.enter(tokens)
        try:
            yield
        finally:
            self.leave(tokens)

    def _refusal(self, reason: str) -> Overloaded:
        drain = self.tokens / _ASSUMED_TOKENS_PER_SECOND
        return Overloaded(f"the server is busy: {reason}", retry_after_seconds=min(30.0, max(1.0, drain)))

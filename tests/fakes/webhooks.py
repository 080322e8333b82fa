"""A receiver of webhooks."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from domain.errors import UrlNotAllowed


@dataclass
class FakeReceiver:
    """A WebhookSender that keeps what it is sent; `answers` are statuses or errors, the last one for ever."""

    answers: list[int | Exception] = field(default_factory=lambda: [200])
    sent: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)
    refused: frozenset[str] = frozenset()

    async def check(self, url: str) -> None:
        """Refuse what is not https, and what the test wants refused."""
        if not url.startswith("https://") or url in self.refused:
            raise UrlNotAllowed

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """Keep it and answer."""
        self.sent.append((url, headers, body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

"""Posts webhooks: over https, to addresses that were judged when they were connected to, to nobody's redirect."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing

import httpx2
import structlog

from domain.errors import DeadlineExceeded, DownloadFailed, UrlNotAllowed
from infrastructure.outbound import CheckedTransport, OutboundPolicy, Refused, certificate_authorities

SECONDS = 10.0
MAX_ANSWER = 64 << 10

_log = structlog.get_logger(__name__)


class SafeWebhookSender:
    """Implements `application.webhooks.WebhookSender` under `policy`, which should know no scheme but https."""

    def __init__(self, policy: OutboundPolicy, *, seconds: float = SECONDS) -> None:
        self._policy = policy
        self._seconds = seconds

    async def check(self, url: str) -> None:
        """Raise UrlNotAllowed for what the rules refuse and what cannot be resolved."""
        try:
            await self._policy.addresses_of(self._policy.parse(url))
        except Refused as error:
            raise self._refusal(error) from None

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """The status of the answer, of which at most 64 KiB are read."""
        await asyncio.to_thread(certificate_authorities)
        try:
            async with asyncio.timeout(self._seconds):
                return await self._post(url, headers, body)
        except Refused as error:
            raise self._refusal(error) from None
        except TimeoutError:
            raise DeadlineExceeded("the receiver did not answer in time") from None
        except httpx2.TransportError as error:
            raise DownloadFailed(f"the receiver could not be told: {type(error).__name__}") from None

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        async with httpx2.AsyncClient(
            transport=CheckedTransport(self._policy), trust_env=False, follow_redirects=False, timeout=None
        ) as client:
            request = client.build_request("POST", self._policy.parse(url), headers=dict(headers), content=body)
            response = await client.send(request, stream=True)
            async with aclosing(response):
                await self._skim(response)
                return response.status_code

    async def _skim(self, response: httpx2.Response) -> None:
        """Read as much of the answer as a polite receiver sends, and leave the rest."""
        read = 0
        async for piece in response.aiter_raw():
            read += len(piece)
            if read > MAX_ANSWER:
                return

    def _refusal(self, error: Refused) -> UrlNotAllowed:
        _log.info("webhook refused", reason=str(error))
        return UrlNotAllowed("that address cannot be reached from here")

"""Fetches files from addresses that strangers name (`operations.md`, A2: the profile `untrusted`)."""

import asyncio
import errno
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import BinaryIO

import httpx2

from domain.errors import (
    DeadlineExceeded,
    DownloadFailed,
    DownloadTooLarge,
    InsufficientStorage,
    Overloaded,
    UrlNotAllowed,
)
from infrastructure.outbound import CheckedTransport, OutboundPolicy, Refused, certificate_authorities

log = logging.getLogger(__name__)

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Seconds, bytes a second (over `idle` seconds), and counts.

    `first_byte` counts from the connection's beginning to the head of the answer.
    """

    connect: float = 5.0
    first_byte: float = 10.0
    idle: float = 30.0
    total: float = 120.0
    min_rate: float = 1024.0
    redirects: int = 3
    at_once: int = 4
    waiting: int = 16


class SafeFetcher:
    """Implements `application.ports.Fetcher`. Logs tell why something was refused, by scheme and host only."""

    def __init__(
        self,
        policy: OutboundPolicy | None = None,
        limits: FetchLimits | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy or OutboundPolicy()
        self._limits = limits or FetchLimits()
        self._monotonic = monotonic
        self._turns = asyncio.Semaphore(self._limits.at_once)
        self._present = 0

    async def check(self, url: str) -> None:
        """Raise UrlNotAllowed for what the rules refuse and what cannot be resolved."""
        try:
            await self._policy.addresses_of(self._policy.parse(url))
        except Refused as error:
            raise _refusal(url, error) from None

    async def fetch(self, url: str, target: Path, *, max_bytes: int) -> int:
        """Write what lies at `url` into the new file `target`; see the contract."""
        async with self._turn():
            try:
                async with asyncio.timeout(self._limits.total):
                    return await self._fetch(url, target, max_bytes)
            except Refused as error:
                raise _refusal(url, error) from None
            except TimeoutError:
                raise DeadlineExceeded("what lies at that address comes too slowly") from None
            except httpx2.TransportError as error:
                raise DownloadFailed(f"the download broke off: {type(error).__name__}") from None

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._present >= self._limits.at_once + self._limits.waiting:
            raise Overloaded("too many downloads are waiting")
        self._present += 1
        try:
            async with self._turns:
                yield
        finally:
            self._present -= 1

    async def _fetch(self, url: str, target: Path, max_bytes: int) -> int:
        await asyncio.to_thread(certificate_authorities)
        async with (
            httpx2.AsyncClient(
                transport=CheckedTransport(self._policy),
                trust_env=False,
                follow_redirects=False,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
                timeout=httpx2.Timeout(None, connect=self._limits.connect),
            ) as client,
            aclosing(await self._answer(client, self._policy.parse(url))) as response,
        ):
            _check(response, max_bytes)
            return await self._save(response, target, max_bytes)

    async def _answer(self, client: httpx2.AsyncClient, url: httpx2.URL) -> httpx2.Response:
        """The head of the answer that the redirects lead to. Each hop is judged from the beginning."""
        for _ in range(self._limits.redirects + 1):
            request = client.build_request(
                "GET", url, headers={"accept": "*/*", "accept-encoding": "identity", "user-agent": "ingle"}
            )
            async with asyncio.timeout(self._limits.first_byte):
                response = await client.send(request, stream=True)
            if response.status_code not in _REDIRECTS:
                return response
            await response.aclose()
            following = self._policy.parse(_joined(url, response.headers.get("location", "")))
            if url.scheme == "https" and following.scheme != "https":
                raise Refused("a redirect leads away from https")
            url = following
        raise DownloadFailed(f"that address redirects more than {self._limits.redirects} times")

    async def _save(self, response: httpx2.Response, target: Path, max_bytes: int) -> int:
        file = await asyncio.to_thread(_new_file, target)
        try:
            with file:
                return await self._write(response, file, max_bytes)
        except BaseException as error:
            _discard(target)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InsufficientStorage("the disk is full") from None
            raise

    async def _write(self, response: httpx2.Response, file: BinaryIO, max_bytes: int) -> int:
        count = 0
        since, counted = self._monotonic(), 0
        pieces = response.aiter_raw()
        while True:
            try:
                async with asyncio.timeout(self._limits.idle):
                    piece = await anext(pieces)
            except StopAsyncIteration:
                return count
            count += len(piece)
            if count > max_bytes:
                raise _too_large(max_bytes)
            file.write(piece)
            elapsed = self._monotonic() - since
            if elapsed >= self._limits.idle:
                if count - counted < self._limits.min_rate * elapsed:
                    raise TimeoutError
                since, counted = self._monotonic(), count


def _new_file(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def _discard(path: Path) -> None:
    path.unlink(missing_ok=True)


def _joined(url: httpx2.URL, location: str) -> str:
    """The address that a redirect names."""
    if not location or len(location) > 2048 or "\\" in location or not location.isprintable():
        raise Refused("a redirect leads nowhere")
    try:
        return str(url.join(location))
    except (httpx2.InvalidURL, ValueError, UnicodeError):
        raise Refused("a redirect leads nowhere") from None


def _check(response: httpx2.Response, max_bytes: int) -> None:
    status = response.status_code
    if not 200 <= status < 300:
        raise DownloadFailed(f"that address answers {status}", upstream_status=status)
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise DownloadFailed("that address compresses although it was asked not to")
    length = response.headers.get("content-length", "")
    if length.isascii() and length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> DownloadTooLarge:
    return DownloadTooLarge(f"what lies at that address is larger than {max_bytes} bytes", max_bytes=max_bytes)


def _refusal(url: str, error: Refused) -> UrlNotAllowed:
    """One and the same for everybody who asks; the reason is for the log."""
    log.info("a fetch was refused: %s: %s", _shown(url), error)
    return UrlNotAllowed()


def _shown(url: str) -> str:
    """Scheme and host, which is all that a log may hold of an address."""
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError, UnicodeError):
        return "a malformed address"
    return f"{parsed.scheme}://{parsed.host}"[:100]

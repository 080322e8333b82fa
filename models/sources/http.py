"""HTTP for registries: bounded, resumable, breakable, and only to hosts that were allowed.

Addresses come from the operator (an index, a hub) or from what that index or hub answers; every hop must stay
on the operator's host or on one of `allowed_hosts`, never go from https to http, and credentials go to the first
origin only. Proxies and certificate authorities are taken from the environment, as pip and curl take them.
"""

import base64
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import httpx2

from models.sources.source import Cancellation, MirrorFailed, WrongBytes

MAX_REDIRECTS = 5
MAX_URL = 2048
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Unreachable(MirrorFailed):
    """The mirror did not answer, or not to the end: the same request may work in a moment."""


class Stalled(Unreachable):
    """The mirror is there and sends nothing, or next to nothing."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait and how often to try. Seconds; `min_rate` in bytes a second over `stall` seconds."""

    connect: float = 10.0
    stall: float = 30.0
    min_rate: int = 1024
    attempts: int = 4
    backoff: float = 0.5


@dataclass(frozen=True, slots=True)
class Document:
    """A small answer, read whole. `url` is where it came from after redirects."""

    url: str
    content_type: str
    body: bytes


@dataclass(frozen=True)
class HttpClient:
    """Requests to one registry at `base_url`, which may carry credentials (`https://user:secret@host/simple`)."""

    base_url: str = field(repr=False)
    allowed_hosts: Sequence[str] = ()
    bearer: str | None = field(default=None, repr=False)
    patience: Patience = Patience()

    @cached_property
    def origin(self) -> httpx2.URL:
        """Scheme, host and port of the registry."""
        url = _parse(self.base_url)
        return url.copy_with(raw_path=b"/", userinfo=b"", fragment=None)

    @property
    def host(self) -> str:
        """The registry's host, for people; also where the configured address is none."""
        try:
            return self.origin.host
        except MirrorFailed:
            return "with a malformed address"

    @cached_property
    def _authorization(self) -> str | None:
        if self.bearer:
            return f"Bearer {self.bearer}"
        url = _parse(self.base_url)
        if not url.userinfo:
            return None
        pair = f"{url.username}:{url.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")

    def url(self, path: str) -> str:
        """The address of `path` below the registry's base."""
        base = _parse(self.base_url).copy_with(userinfo=b"", fragment=None)
        return f"{str(base).rstrip('/')}/{path}"

    def read(self, url: str, accept: str, limit: int, cancellation: Cancellation) -> Document:
        """A document of at most `limit` bytes, tried again while the registry stumbles. Raises MirrorFailed."""
        for attempt in self.attempts(cancellation):
            try:
                with self.open(url, {"Accept": accept}, cancellation) as response:
                    body = b"".join(self.chunks(response, limit, cancellation))
                    return Document(str(response.url), response.headers.get("content-type", ""), body)
            except Unreachable as error:
                if attempt == self.patience.attempts or isinstance(error, Stalled):
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def attempts(self, cancellation: Cancellation) -> Iterator[int]:
        """1, 2, … up to the number of attempts, with a growing pause before each but the first."""
        for attempt in range(1, self.patience.attempts + 1):
            if attempt > 1:
                self.pause(attempt - 1, cancellation)
            yield attempt

    def pause(self, failures: int, cancellation: Cancellation) -> None:
        """Wait as long as one should after so many failures in a row."""
        cancellation.sleep(min(self.patience.backoff * 2 ** (failures - 1), 8.0))

    @contextmanager
    def open(self, url: str, headers: Mapping[str, str], cancellation: Cancellation) -> Iterator[httpx2.Response]:
        """GET `url` through its redirects; the body is not read yet. Raises MirrorFailed for every status but 2xx."""
        cancellation.check()
        sockets = _Sockets()
        timeout = httpx2.Timeout(self.patience.stall, connect=self.patience.connect)
        with (
            cancellation.breaking(sockets.shut_down),
            httpx2.Client(verify=_ssl_context(), timeout=timeout, http2=False) as client,
            _as_mirror_failure(cancellation),
        ):
            response = self._follow(client, url, headers, sockets)
            try:
                _check_status(response)
                yield response
            finally:
                response.close()

    def _follow(
        self, client: httpx2.Client, address: str, headers: Mapping[str, str], sockets: "_Sockets"
    ) -> httpx2.Response:
        url = _parse(address)
        for _ in range(MAX_REDIRECTS + 1):
            self._check_host(url)
            own = url.copy_with(userinfo=b"", fragment=None)
            request = client.build_request(
                "GET", own, headers=self._headers(own, headers), extensions={"trace": sockets.watch}
            )
            response = client.send(request, stream=True)
            if response.status_code not in _REDIRECTS:
                return response
            target = response.headers.get("location", "")
            response.close()
            following = url.join(_parse(target, relative=True))
            if url.scheme == "https" and following.scheme != "https":
                raise MirrorFailed(f"{url.host} redirects from https to {following.scheme}")
            url = following
        raise MirrorFailed(f"{url.host} redirects more than {MAX_REDIRECTS} times")

    def _headers(self, url: httpx2.URL, headers: Mapping[str, str]) -> dict[str, str]:
        own = {"Accept-Encoding": "identity", "User-Agent": "ingle", **headers}
        if self._authorization and _origin(url) == _origin(self.origin):
            own["Authorization"] = self._authorization
        return own

    def _check_host(self, url: httpx2.URL) -> None:
        if url.scheme not in ("http", "https") or not url.host:
            raise MirrorFailed("an address is neither http nor https")
        if self.origin.scheme == "https" and url.scheme != "https":
            raise MirrorFailed(f"{url.host} would be reached without encryption")
        if url.host == self.origin.host or any(_matches(url.host, pattern) for pattern in self.allowed_hosts):
            return
        raise MirrorFailed(f"{self.origin.host} sends us to {url.host[:100]}, which INGLE_PULL_HOSTS does not allow")

    def chunks(self, response: httpx2.Response, limit: int, cancellation: Cancellation) -> Iterator[bytes]:
        """The body as it comes, at most `limit` bytes. Raises WrongBytes for more, Stalled for a drip."""
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise MirrorFailed(f"{response.url.host} compresses although it was asked not to")
        pace = Pace(self.patience)
        count = 0
        with _as_mirror_failure(cancellation):
            for chunk in response.iter_raw():
                cancellation.check()
                count += len(chunk)
                if count > limit:
                    raise WrongBytes(f"{response.url.host} sends more than the {limit} bytes expected")
                pace.count(len(chunk))
                yield chunk


class Pace:
    """Notices a connection that drips: too few bytes in the time that a stall is allowed to take."""

    def __init__(self, patience: Patience, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._patience = patience
        self._since = self._clock()
        self._bytes = 0

    def count(self, received: int) -> None:
        """Note `received` more bytes. Raises Stalled where that is too slow."""
        self._bytes += received
        elapsed = self._clock() - self._since
        if elapsed < self._patience.stall:
            return
        if self._bytes < self._patience.min_rate * elapsed:
            raise Stalled(f"only {self._bytes} bytes came in {elapsed:.0f} s")
        self._since, self._bytes = self._clock(), 0


class _Sockets:
    """The connections that one request opened, so that another thread can break them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._down = False

    def watch(self, event: str, info: Mapping[str, Any]) -> None:
        """Note a connection: the callback of httpcore's `trace` extension."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            opened = info["return_value"].get_extra_info("socket")
            with self._lock:
                self._sockets.append(opened)
                down = self._down
            if down:
                self.shut_down()

    def shut_down(self) -> None:
        """Wake whoever reads: close() alone would not."""
        with self._lock:
            self._down = True
            sockets = list(self._sockets)
        for opened in sockets:
            try:
                # Not SSLSocket.shutdown, which would take the TLS state from under the reading thread.
                socket.socket.shutdown(opened, socket.SHUT_RDWR)
            except OSError:
                continue  # it is closed already, which is what was wanted


@cache
def _ssl_context() -> ssl.SSLContext:
    """The system's certificate authorities, or those that SSL_CERT_FILE names; reading them takes a while."""
    return httpx2.create_ssl_context()


@contextmanager
def _as_mirror_failure(cancellation: Cancellation) -> Iterator[None]:
    try:
        yield
    except httpx2.ReadTimeout as error:
        cancellation.check()
        raise Stalled("it stopped sending") from error
    except httpx2.TransportError as error:
        cancellation.check()
        raise Unreachable(f"the connection failed: {error or type(error).__name__}") from error
    except httpx2.InvalidURL as error:
        raise MirrorFailed(f"an address is malformed: {error}") from error


def _check_status(response: httpx2.Response) -> None:
    code = response.status_code
    if 200 <= code < 300 or code == 416:
        return
    reason = f"{response.url.host} answers {code} {response.reason_phrase}"
    hint = response.headers.get("x-error-message", "")[:200]
    if hint and hint.isprintable():
        reason += f" ({hint})"
    raise Unreachable(reason) if code in _RETRYABLE else MirrorFailed(reason)


def _parse(address: str, *, relative: bool = False) -> httpx2.URL:
    if not address or len(address) > MAX_URL or "\\" in address or not address.isprintable() or " " in address:
        raise MirrorFailed("an address is empty, too long or malformed")
    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL as error:
        raise MirrorFailed(f"an address is malformed: {error}") from error
    if not relative and not url.host:
        raise MirrorFailed("an address names no host")
    return url


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _matches(host: str, pattern: str) -> bool:
    """`*.example.org` allows every host below example.org, any other pattern exactly itself."""
    if pattern.startswith("*."):
        return host.lower().endswith(pattern[1:].lower())
    return host.lower() == pattern.lower()

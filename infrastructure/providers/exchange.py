"""One HTTP exchange with a provider: everything that it sends is a stranger's, bounded and checked."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx2
import orjson

from domain.errors import BadResponse, DeadlineExceeded, IngleError, ProviderError, ProviderUnavailable
from infrastructure.providers.entry import Patience, ProviderEntry
from infrastructure.providers.events import MAX_ANSWER, EventReader
from infrastructure.providers.failures import RETRYABLE, cleaned, failure_of, message_of, retry_after
from infrastructure.providers.upload import Upload
from infrastructure.providers.work import TooSlow, Work

Json = dict[str, Any]

MAX_ERROR_BODY = 64 << 10
_ERROR_BODY_SECONDS = 5.0
_DONE = b"[DONE]"
# A path that takes POST answers a GET so.
_THERE = (400, 405, 422)


class Unanswered(Exception):
    """A try that brought nothing: what its caller hears, whether another may, and whether the provider is at fault.

    `pause` are the seconds that the provider wants us to wait, `status` what it answered, if it did.
    """

    def __init__(
        self,
        failure: IngleError,
        *,
        again: bool = False,
        is_fault: bool = True,
        pause: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.again = again
        self.is_fault = is_fault
        self.pause = pause
        self.status = status


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked of a provider, once or several times, and for whom: GET without a body, else POST."""

    path: str
    body: Json | Upload | None
    work: Work
    request_id: str = ""


class Exchange:
    """Makes single tries. Raises Unanswered, and what the work raises; see EventStream for what has begun."""

    def __init__(self, entry: ProviderEntry) -> None:
        self._entry = entry
        self._authorities: ssl.SSLContext | None = None

    async def stream(self, call: Call) -> "EventStream":
        """A stream of which the first event has come; whoever gets it closes it."""
        patience = self._entry.patience
        response = await self._send(call, "text/event-stream", patience.first_byte)
        stream = EventStream(response, call.work, patience, self._entry.key)
        try:
            with _as_unanswered(patience.first_byte):
                await stream.begin()
        except BaseException:
            await stream.close()
            raise
        return stream

    async def whole(self, call: Call) -> Json:
        """The JSON object that the provider answers; an Upload's may come under any media type."""
        patience = self._entry.patience
        # whisper-asr-webservice calls its JSON text.
        accept = "*/*" if isinstance(call.body, Upload) else "application/json"
        response = await self._send(call, accept, patience.first_byte)
        try:
            with _as_unanswered(patience.idle):
                return _parsed(await _body(response, call.work, patience.idle, MAX_ANSWER), self._entry.key)
        finally:
            await response.aclose()

    async def look(self, call: Call) -> None:
        """Return if there is something at the call's path, whether or not it takes a call of this kind."""
        try:
            response = await self._send(call, "*/*", self._entry.patience.first_byte)
        except Unanswered as error:
            if error.status not in _THERE:
                raise
        else:
            await response.aclose()

    async def prepare(self) -> None:
        """Read the certificate authorities off the event loop, for it takes a moment."""
        if self._authorities is None:
            self._authorities = await asyncio.to_thread(self._read_authorities)

    async def close(self) -> None:
        """Close every connection; no try may be under way. The next try opens new ones."""
        if "_client" in self.__dict__:
            await self.__dict__.pop("_client").aclose()

    def _read_authorities(self) -> ssl.SSLContext:
        context = httpx2.create_ssl_context()
        if self._entry.ca_file is not None:
            context.load_verify_locations(self._entry.ca_file)
        return context

    @cached_property
    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            verify=self._authorities or self._read_authorities(),
            trust_env=False,
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=httpx2.Timeout(None, connect=self._entry.patience.connect),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
        )

    async def _send(self, call: Call, accept: str, seconds: float) -> httpx2.Response:
        """The head of a successful answer."""
        headers = self._headers(call, accept)
        content: bytes | AsyncIterator[bytes] | None = None
        if isinstance(call.body, Upload):
            length, content = await call.body.open()
            headers |= {"content-type": call.body.content_type, "content-length": str(length)}
        elif call.body is not None:
            content = orjson.dumps(call.body)
            headers["content-type"] = "application/json"
        request = self._client.build_request(
            "GET" if call.body is None else "POST",
            self._entry.base_url.rstrip("/") + call.path,
            content=content,
            headers=headers,
        )
        with _as_unanswered(seconds):
            response = await call.work.wait(lambda: self._client.send(request, stream=True), seconds)
        try:
            await self._check(response, call.work, accept)
        except BaseException:
            await response.aclose()
            raise
        return response

    def _headers(self, call: Call, accept: str) -> dict[str, str]:
        headers = {"accept": accept, "accept-encoding": "identity", "user-agent": "ingle"}
        if self._entry.key is not None:
            headers["authorization"] = f"Bearer {self._entry.key}"
        if call.request_id:
            headers["x-request-id"] = call.request_id
        return headers

    async def _check(self, response: httpx2.Response, work: Work, accept: str) -> None:
        status = response.status_code
        if not 200 <= status < 300:
            body = b""
            with suppress(TooSlow, BadResponse, httpx2.TransportError):
                body = await _body(response, work, _ERROR_BODY_SECONDS, MAX_ERROR_BODY)
            raise Unanswered(
                failure_of(status, body, response.headers, key=self._entry.key),
                again=status in RETRYABLE,
                is_fault=status >= 500,
                pause=retry_after(response.headers),
                status=status,
            )
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise Unanswered(BadResponse("the provider compresses although it was asked not to"))
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if accept not in (media_type, "*/*"):
            raise Unanswered(BadResponse(f"the provider does not answer with {accept}"))


class EventStream:
    """The objects of a streamed answer, up to `[DONE]` or to where the provider ends it.

    What goes wrong after the first raises ProviderError or BadResponse.
    """

    def __init__(self, response: httpx2.Response, work: Work, patience: Patience, key: str | None) -> None:
        self._response = response
        self._pieces = response.aiter_raw()
        self._work = work
        self._patience = patience
        self._key = key
        self._reader = EventReader()
        self._ready: list[bytes] = []
        self._has_ended = False

    async def begin(self) -> None:
        """Wait for the first event."""
        while not self._ready and not self._has_ended:
            await self._read(self._patience.first_byte)
        if not self._ready:
            raise BadResponse("the provider's answer is empty")

    async def __aiter__(self) -> AsyncIterator[Json]:
        while True:
            ready, self._ready = self._ready, []
            for data in ready:
                if data.strip() == _DONE:
                    return
                yield _parsed(data, self._key)
            if self._has_ended:
                return
            try:
                await self._read(self._patience.idle)
            except TooSlow:
                raise ProviderError(f"the provider sent nothing for {self._patience.idle:g} s") from None
            except httpx2.TransportError:
                raise ProviderError("the provider's answer broke off") from None

    async def _read(self, seconds: float) -> None:
        try:
            piece = await self._work.wait(lambda: anext(self._pieces), seconds)
        except StopAsyncIteration:
            self._has_ended = True
            self._ready = self._reader.finish()
        else:
            self._ready = self._reader.feed(piece)

    async def close(self) -> None:
        """Close the connection, which tells the provider to stop."""
        await self._response.aclose()


async def _body(response: httpx2.Response, work: Work, seconds: float, limit: int) -> bytes:
    """All of it, no piece later than `seconds` after the one before. Raises BadResponse for more than `limit` bytes."""
    body = bytearray()
    async with aclosing(response.aiter_raw()) as pieces:
        with suppress(StopAsyncIteration):
            while len(body) <= limit:
                body += await work.wait(lambda: anext(pieces), seconds)
    if len(body) > limit:
        raise BadResponse("the provider's answer is too long")
    return bytes(body)


def _parsed(data: bytes, key: str | None) -> Json:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise BadResponse("the provider's answer is no JSON") from None
    if not isinstance(document, dict):
        raise BadResponse("the provider's answer is no JSON object")
    if error := document.get("error"):
        said = cleaned(message_of(error), key)
        raise ProviderError(f"the provider failed: {said}" if said else None)
    return document


@contextmanager
def _as_unanswered(seconds: float) -> Iterator[None]:
    """What can go wrong before the first byte, as the end of a try."""
    try:
        yield
    except TooSlow:
        raise Unanswered(DeadlineExceeded(f"the provider sent nothing for {seconds:g} s")) from None
    except httpx2.TransportError:
        # Its text may hold the address.
        raise Unanswered(ProviderUnavailable("the provider cannot be reached"), again=True) from None
    except (BadResponse, ProviderError) as error:
        raise Unanswered(error) from None

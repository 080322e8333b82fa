"""Who may ask: the Host header against DNS rebinding, the Origin against other web sites, CORS for allowed ones."""

import ipaddress
import re
import socket
from collections.abc import Awaitable, Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import HostNotAllowed, OriginNotAllowed

SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
LOCAL_ORIGIN_HOSTS = frozenset(("localhost", "127.0.0.1", "::1", "0.0.0.0"))  # noqa: S104
APP_SCHEMES = frozenset(("app", "file", "tauri", "vscode-webview", "vscode-file"))
CORS_METHODS = "GET, POST, DELETE"
CORS_HEADERS = frozenset(
    (
        "accept",
        "authorization",
        "content-type",
        "idempotency-key",
        "openai-beta",
        "prefer",
        "x-api-key",
        "x-request-id",
        "x-request-timeout",
    )
)
CORS_HEADER_PREFIX = "x-stainless-"
CORS_EXPOSED = (
    "X-Request-ID, X-Queue-Position, X-Queue-Wait-Ms, X-Truncated, X-Language, X-Audio-Duration, X-Processing-Time, "
    "X-Warnings, Retry-After, Retry-After-Ms, Location"
)
PREFLIGHT_SECONDS = "600"

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?")


def host_name(host: str) -> str | None:
    """The name or address of a Host header in lower case, without port and brackets; None if it has no such form."""
    match = _HOST.fullmatch(host.strip().lower())
    return match["name"].strip("[]") if match else None


def is_local_host(name: str) -> bool:
    """Whether a host name cannot be one that somebody else's DNS answers for."""
    if name == "localhost" or name.endswith(LOCAL_SUFFIXES):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_private


class HostGuard:
    """403 for a Host that is neither local nor allowed: a page at evil.example that resolves to us stops here."""

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str]) -> None:
        self._app = app
        self._allowed = {host.strip().lower() for host in allowed_hosts} | {socket.gethostname().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on if its Host is absent, empty, local or allowed."""
        if scope["type"] == "http":
            hosts = Headers(scope=scope).getlist("host")
            if len(hosts) > 1 or not all(self._is_allowed(host) for host in hosts):
                raise HostNotAllowed()
        await self._app(scope, receive, send)

    def _is_allowed(self, host: str) -> bool:
        if not host.strip():
            return True
        name = host_name(host)
        return name is not None and (is_local_host(name) or name in self._allowed)


class AllowedOrigins:
    """The web origins that may use this server from a browser."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._listed = {origin.strip().lower().rstrip("/") for origin in origins}

    def allows(self, origin: str, host: str) -> bool:
        """Whether `origin` is local, an application's, listed, or the server's own (that of the Host header)."""
        origin = origin.strip().lower()
        if origin in self._listed:
            return True
        try:
            parts = urlsplit(origin)
            name = parts.hostname or ""
        except ValueError:
            return False
        if parts.scheme in APP_SCHEMES:
            return True
        is_own = bool(host) and parts.netloc == host.strip().lower()
        return parts.scheme in ("http", "https") and (is_own or name in LOCAL_ORIGIN_HOSTS)


class OriginGuard:
    """403 for a request that changes something and comes from another site's page, even without a preflight."""

    def __init__(self, app: ASGIApp, origins: AllowedOrigins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on if no foreign page sent it."""
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS:
            headers = Headers(scope=scope)
            host = headers.get("host", "")
            origins = headers.getlist("origin")
            if not all(self._origins.allows(origin, host) for origin in origins):
                raise OriginNotAllowed()
            if not origins and headers.get("sec-fetch-site", "").lower() == "cross-site":
                raise OriginNotAllowed()
        await self._app(scope, receive, send)


class Cors:
    """Lets allowed origins read answers; never with credentials, so a cookie or a stored key is no use."""

    def __init__(self, app: ASGIApp, origins: AllowedOrigins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight of an allowed origin, and mark answers to one."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        is_allowed = origin is not None and self._origins.allows(origin, headers.get("host", ""))
        if is_allowed and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await self._answer_preflight(origin or "", headers.get("access-control-request-headers", ""), send)
            return

        def send_with_cors(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                marked = MutableHeaders(raw=list(message.get("headers", ())))
                marked.add_vary_header("Origin")
                if is_allowed and origin is not None:
                    marked["Access-Control-Allow-Origin"] = origin
                    marked["Access-Control-Expose-Headers"] = CORS_EXPOSED
                message = {**message, "headers": marked.raw}
            return send(message)

        await self._app(scope, receive, send_with_cors)

    async def _answer_preflight(self, origin: str, wanted: str, send: Send) -> None:
        names = [name.strip().lower() for name in wanted.split(",") if name.strip()]
        granted = [name for name in names if name in CORS_HEADERS or _is_stainless(name)]
        headers = MutableHeaders()
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Allow-Methods"] = CORS_METHODS
        headers["Access-Control-Max-Age"] = PREFLIGHT_SECONDS
        headers["Vary"] = "Origin, Access-Control-Request-Headers"
        if granted:
            headers["Access-Control-Allow-Headers"] = ", ".join(granted)
        await send({"type": "http.response.start", "status": 204, "headers": headers.raw})
        await send({"type": "http.response.body", "body": b""})


def _is_stainless(name: str) -> bool:
    return re.fullmatch(CORS_HEADER_PREFIX + r"[a-z0-9-]{1,64}", name) is not None

"""HTTP to addresses that strangers name: each is judged when it is connected to, and where it really leads.

`CheckedTransport` is a transport of httpx2: whoever builds a client on it (fetches, webhooks) cannot get round the
rules. Between check and connection nothing is resolved a second time, so a name cannot change its mind.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import httpx2

from infrastructure.addresses import Address, AddressRules, parse

MAX_URL = 2048
RESOLVE_SECONDS = 3.0
MAX_ADDRESSES = 8
_DEFAULT_PORTS = {"http": 80, "https": 443}

Resolver = Callable[[str, int], Awaitable[Sequence[Address]]]
"""(host, port) → every address that the host has. Raises OSError or UnicodeError for one without."""


class Refused(Exception):
    """The address may not be reached, or is not there; the text is for our own log and for nobody else."""


async def system_resolver(host: str, port: int) -> Sequence[Address]:
    """As the system resolves, in a thread: a literal in any spelling (`127.1`, `0x7f.1`) is an address too."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(parse(str(entry[4][0])) for entry in found))


@dataclass(frozen=True, slots=True)
class OutboundPolicy:
    """Where one may connect to. `schemes` of the two that there are; `ports` whatever the scheme."""

    rules: AddressRules = field(default_factory=AddressRules)
    ports: frozenset[int] = frozenset({80, 443})
    schemes: frozenset[str] = frozenset({"http", "https"})
    resolver: Resolver = system_resolver

    def parse(self, address: str) -> httpx2.URL:
        """The address as the client will read it. Raises Refused for what two readers might read differently."""
        if not 0 < len(address) <= MAX_URL or "\\" in address or " " in address or not address.isprintable():
            raise Refused("the address is empty, too long or malformed")
        try:
            url = httpx2.URL(address)
        except (httpx2.InvalidURL, ValueError, UnicodeError):
            raise Refused("the address is malformed") from None
        self.check_url(url)
        return url

    def check_url(self, url: httpx2.URL) -> None:
        """Raise Refused by scheme, user info, host or port."""
        if url.scheme not in self.schemes:
            raise Refused("the scheme is not allowed")
        if not url.host or url.userinfo or "%" in url.host:
            raise Refused("the address has no host, a strange one, or a user in it")
        if port_of(url) not in self.ports:
            raise Refused("the port is not allowed")

    async def addresses_of(self, url: httpx2.URL) -> Sequence[Address]:
        """Where the host is, all of it allowed. Raises Refused."""
        host = url.raw_host.decode("ascii")
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                addresses = await self.resolver(host, port_of(url))
        except (OSError, UnicodeError, ValueError):  # TimeoutError is an OSError
            raise Refused("the host cannot be resolved") from None
        if not self.rules.permit(host, addresses):
            raise Refused("the host is at an address that is not allowed")
        return addresses[:MAX_ADDRESSES]


def port_of(url: httpx2.URL) -> int:
    """The port that would be connected to."""
    return url.port or _DEFAULT_PORTS.get(url.scheme, 0)


@cache
def certificate_authorities() -> ssl.SSLContext:
    """Those of the system. Reading them takes a moment, the first time."""
    return httpx2.create_ssl_context()


class CheckedTransport(httpx2.AsyncBaseTransport):
    """Connects to addresses that the policy allows and to no other; raises Refused.

    The name stays in `Host` and is what the certificate must be for. No proxies, nothing from the environment but
    the certificate authorities; connections are not kept.
    """

    def __init__(self, policy: OutboundPolicy) -> None:
        self._policy = policy
        self._transport = httpx2.AsyncHTTPTransport(
            verify=certificate_authorities(), trust_env=False, limits=httpx2.Limits(max_keepalive_connections=0)
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Resolve, judge, connect to what was judged."""
        self._policy.check_url(request.url)
        addresses = await self._policy.addresses_of(request.url)
        failure: httpx2.TransportError | None = None
        for address in addresses:
            try:
                response = await self._transport.handle_async_request(_aimed(request, address))
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                failure = error
                continue
            await _check_peer(response, address)
            return response
        raise Refused(f"nobody answers there: {type(failure).__name__}") from None

    async def aclose(self) -> None:
        """Close what is open."""
        await self._transport.aclose()


def _aimed(request: httpx2.Request, address: Address) -> httpx2.Request:
    """The same request, at an address instead of a name."""
    return httpx2.Request(
        request.method,
        request.url.copy_with(host=str(address)),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": request.url.raw_host.decode("ascii")},
    )


async def _check_peer(response: httpx2.Response, address: Address) -> None:
    peer = response.extensions["network_stream"].get_extra_info("server_addr")
    if peer is None or parse(str(peer[0])) != address:
        await response.aclose()
        raise Refused("the connection leads elsewhere")

"""Who may use a route: every route says which scope opens it, and one gate before all of them asks for it.

The gate goes by the route that was matched, never by the address that the client wrote. A route that says nothing is
open to admin keys only.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope as AsgiScope

from api.cancelling import Cancellations
from api.errors import InsufficientScope, InvalidApiKey
from api.request_ids import request_id_of
from domain.access import EVERYBODY, NOBODY, Caller, Scope
from domain.key_ring import MAX_KEY_BYTES, KeyRing

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_OPENED_BY = "opened_by"
_PUBLIC: frozenset[Scope] = frozenset()


class Keys(Protocol):
    """The keys of this server, as they are now."""

    @property
    def ring(self) -> KeyRing:
        """Every key."""


def needs(*scopes: Scope) -> Callable[[Endpoint], Endpoint]:
    """Marks an endpoint: a key with one of `scopes` opens it."""

    def mark(endpoint: Endpoint) -> Endpoint:
        vars(endpoint)[_OPENED_BY] = frozenset(scopes)
        return endpoint

    return mark


def public(endpoint: Endpoint) -> Endpoint:
    """Marks an endpoint: it needs no key. It may still look at the caller, who may have one."""
    vars(endpoint)[_OPENED_BY] = _PUBLIC
    return endpoint


def opened_by(endpoint: Callable[..., Any]) -> frozenset[Scope] | None:
    """The scopes of which one opens the endpoint, none for a public one; None where it says nothing."""
    return vars(endpoint).get(_OPENED_BY)


def caller_of(scope: AsgiScope) -> Caller:
    """Who sent the request in `scope`."""
    caller: Caller = scope["state"]["caller"]
    return caller


def caller_of_a_job(keys: Keys | None) -> Caller:
    """Who asks for what a job does: whose key made it is not kept, so it may do what every key may."""
    return EVERYBODY if keys is None else NOBODY


class Gate:
    """Lets a request into its route, before its body is read, or raises InvalidApiKey or InsufficientScope.

    `keys` None means that none are configured: everybody may do everything.
    """

    def __init__(self, keys: Keys | None, cancellations: Cancellations) -> None:
        self._keys = keys
        self._cancellations = cancellations

    async def __call__(self, request: Request) -> None:
        """Find out who asks, note it with the request, and whether that opens the route."""
        caller = EVERYBODY if self._keys is None else identified(request.headers, self._keys.ring) or NOBODY
        request.scope["state"]["caller"] = caller
        scopes = opened_by(request.scope["route"].endpoint)
        if scopes != _PUBLIC:
            if caller is NOBODY:
                raise InvalidApiKey()
            if not caller.may(*(scopes or ())):
                raise InsufficientScope(sorted(scopes or (Scope.ADMIN,)))
        self._cancellations.belongs(request_id_of(request.scope), caller.name)


def identified(headers: Headers, ring: KeyRing) -> Caller | None:
    """Whose key the headers hold: one key, and only one, however often it is said. Other schemes do not count."""
    shown: set[str] = {key.strip() for key in headers.getlist("x-api-key")}
    for value in headers.getlist("authorization"):
        scheme, _, rest = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            shown.add(rest.strip())
    if len(shown) != 1:
        return None
    # Header values are decoded as Latin-1, which gives the very bytes back.
    key = shown.pop().encode("latin-1")
    return ring.find(key) if 0 < len(key) <= MAX_KEY_BYTES else None

"""Keys that a test makes up: the key `infer` opens the scope infer, and so on."""

from collections.abc import Collection
from dataclasses import dataclass

from domain.access import Caller, Scope
from domain.key_ring import KeyRing, StoredKey, digest_of


def key_of(name: str) -> str:
    """The text of the key of that name."""
    return f"ingle_{name}_0123456789"


def shown(name: str) -> dict[str, str]:
    """The headers of who has that key."""
    return {"authorization": f"Bearer {key_of(name)}"}


def stored(name: str, *scopes: Scope, owners: Collection[str] = (), profiles: Collection[str] = ()) -> StoredKey:
    """A key as it is kept."""
    caller = Caller(name, frozenset(scopes), frozenset(owners), frozenset(profiles))
    return StoredKey(bytes.fromhex(digest_of(key_of(name))), caller)


@dataclass
class FakeKeys:
    """Keys that a test may change."""

    ring: KeyRing


def keys(*more: StoredKey) -> FakeKeys:
    """A key for each scope, under its name, and `more`."""
    return FakeKeys(KeyRing((*(stored(scope, scope) for scope in Scope), *more)))

"""Keys as they are kept: digests only, one a line, and how the key that somebody shows is found among them."""

import hmac
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from domain.access import Caller, Scope
from domain.new_job import NAME

MAX_KEY_BYTES = 512
KEY_PREFIX = "ingle_"
FORM = "name:scope+scope:sha256-in-hex, and after a further colon owners separated by |"

_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PROFILE = "profile="

Equal = Callable[[bytes, bytes], bool]


class BadKey(ValueError):
    """A stored key has no such form. The message never repeats what stood there: it may be the key itself."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """The SHA-256 of a key, and what it opens."""

    digest: bytes
    caller: Caller

    def __repr__(self) -> str:
        return f"StoredKey({self.caller.name!r})"


@dataclass(frozen=True, slots=True)
class KeyRing:
    """All keys of a server. Raises BadKey for two of one name."""

    keys: tuple[StoredKey, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for key in self.keys:
            if key.caller.name in seen:
                raise BadKey(f"there are two keys named {key.caller.name}: revoke one, or name it otherwise")
            seen.add(key.caller.name)

    def __str__(self) -> str:
        return f"{len(self.keys)} keys" if self.keys else ""

    def find(self, shown: bytes, equal: Equal = hmac.compare_digest) -> Caller | None:
        """Whose key `shown` is, None for nobody's. Every stored digest is compared, whichever of them is equal."""
        digest = sha256(shown).digest()
        found: Caller | None = None
        for key in self.keys:
            if equal(key.digest, digest):
                found = key.caller
        return found


def digest_of(key: str) -> str:
    """What is stored of a key, in hexadecimal."""
    return sha256(key.encode()).hexdigest()


def parse_line(line: str) -> StoredKey:
    """One stored key, `name:scope+scope:sha256hex[:owner|owner]`. Raises BadKey.

    A part `profile=NAME` among the owners binds the scope `worker` to that model profile.
    """
    name, scopes, digest, bound = [part.strip() for part in [*line.split(":", 3), "", "", ""][:4]]
    if not _KEY_NAME.fullmatch(name) or not _DIGEST.fullmatch(digest):
        raise BadKey(f"is not a key: write {FORM}")
    parts = [part.strip() for part in bound.split("|") if part.strip()]
    owners = [part for part in parts if not part.startswith(_PROFILE)]
    profiles = [part.removeprefix(_PROFILE) for part in parts if part.startswith(_PROFILE)]
    return StoredKey(bytes.fromhex(digest), new_caller(name, scopes.split("+"), owners, profiles))


def new_caller(name: str, scopes: Iterable[str], owners: Iterable[str] = (), profiles: Iterable[str] = ()) -> Caller:
    """A key's rights, checked. Raises BadKey."""
    if not _KEY_NAME.fullmatch(name):
        raise BadKey("the name of a key is letters, digits and _.@-, at most 64 of them")
    try:
        opened = frozenset(Scope(scope.strip()) for scope in scopes)
    except ValueError:
        raise BadKey(f"the key {name} has an unknown scope: choose of {', '.join(Scope)}") from None
    bound, run = frozenset(owners), frozenset(profiles)
    if not all(NAME.fullmatch(one) for one in bound | run):
        raise BadKey(f"the key {name} is bound to something that is no owner and no model profile")
    return Caller(name, opened, bound, run)


def line_of(caller: Caller, digest: str) -> str:
    """How a key is stored: what `parse_line` reads."""
    scopes = "+".join(scope for scope in Scope if scope in caller.scopes)
    bound = [*sorted(caller.owners), *(f"{_PROFILE}{profile}" for profile in sorted(caller.profiles))]
    return ":".join((caller.name, scopes, digest, *(["|".join(bound)] if bound else [])))


def parse_keys(given: Sequence[str]) -> KeyRing:
    """Keys of a setting: stored ones, and bare ones, which open everything. Raises BadKey."""
    keys = []
    for number, text in enumerate(given, 1):
        if ":" in text:
            keys.append(parse_line(text))
        elif not text.isascii() or not text.isprintable() or len(text) > MAX_KEY_BYTES:
            raise BadKey(f"a bare key is printable ASCII, at most {MAX_KEY_BYTES} characters")
        else:
            keys.append(StoredKey(bytes.fromhex(digest_of(text)), Caller(f"key-{number}", frozenset({Scope.ADMIN}))))
    return KeyRing(tuple(keys))


def parse_file(text: str) -> KeyRing:
    """Keys of a file: one a line; empty lines and what follows a # count for nothing. Raises BadKey with the line."""
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        stored = line.partition("#")[0].strip()
        if not stored:
            continue
        try:
            keys.append(parse_line(stored))
        except BadKey as error:
            raise BadKey(f"line {number}: {error}") from None
    return KeyRing(tuple(keys))

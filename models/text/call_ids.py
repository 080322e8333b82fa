"""Names for calls, by which their results are brought back."""

import hashlib
import secrets
from collections.abc import Callable

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_LENGTH = 8

NewId = Callable[[], str]


def call_ids(seed: int | None, index: int) -> NewId:
    """Ids for the calls of answer number `index`: the same for the same seed, else random."""
    salt = secrets.token_hex(16) if seed is None else str(seed)
    number = 0

    def new_id() -> str:
        nonlocal number
        digest = int.from_bytes(hashlib.sha256(f"call/{salt}/{index}/{number}".encode()).digest())
        number += 1
        return "call_" + "".join(
            _ALPHABET[digest // len(_ALPHABET) ** place % len(_ALPHABET)] for place in range(_LENGTH)
        )

    return new_id

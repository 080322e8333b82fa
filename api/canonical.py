"""One spelling of a JSON value, to tell by its hash whether two are the same."""

import json
from hashlib import sha256
from typing import Any

from application.job_handlers import Weighed
from domain.json_text import in_pieces

_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def weighed(value: Any) -> Weighed:
    """The length and the hash of a JSON value: sorted keys, no spaces, UTF-8.

    Raises ValueError or TypeError for what JSON cannot say: NaN, infinities, lone surrogates, other types.
    """
    size, digest = 0, sha256()
    for piece in in_pieces(value, _ENCODE, sort_keys=True):
        text = piece.encode()
        size += len(text)
        digest.update(text)
    return Weighed(size, digest.hexdigest())


def canonical_sha256(value: Any) -> str:
    """The hash alone."""
    return weighed(value).sha256

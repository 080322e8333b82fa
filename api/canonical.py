"""One spelling of a JSON value, to tell by its hash whether two are the same."""

import json
from hashlib import sha256
from typing import Any

from application.job_handlers import Weighed


def weighed(value: Any) -> Weighed:
    """The length and the hash of a JSON value: sorted keys, no spaces, UTF-8.

    Raises ValueError or TypeError for what JSON cannot say: NaN, infinities, lone surrogates, other types.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    return Weighed(len(text), sha256(text).hexdigest())


def canonical_sha256(value: Any) -> str:
    """The hash alone."""
    return weighed(value).sha256

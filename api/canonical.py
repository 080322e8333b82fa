"""One spelling of a JSON value, to tell by its hash whether two are the same."""

import json
from hashlib import sha256
from typing import Any


def canonical_sha256(value: Any) -> str:
    """The hash of a JSON value: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256(text.encode()).hexdigest()

"""What a provider's refusal means here. What it says is a stranger's: cut, cleaned, and without our key."""

import email.utils
import re
import time
from collections.abc import Mapping
from typing import Any

import orjson

from domain.errors import (
    IngleError,
    InvalidRequest,
    ProviderError,
    ProviderRefusesKey,
    ProviderUnavailable,
    RateLimited,
)

MAX_MESSAGE = 300
MAX_PAUSE = 3600.0
RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which the same call is made again."""

_SECRETS = re.compile(r"\b(?:sk|rk|pk)-[\w-]{6,}|\bBearer\s+\S+|//[^/@\s]+@", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]+")


def cleaned(message: str, key: str | None) -> str:
    """`message` for our own callers and logs: short, printable, without keys."""
    text = message.replace(key, "***") if key else message
    text = _SECRETS.sub("***", _UNPRINTABLE.sub(" ", text[: 16 * MAX_MESSAGE]))
    text = " ".join(text.split())
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}…"


def message_in(body: bytes) -> str:
    """What an error's body says, in the shapes that servers give it; empty where there is nothing to be read."""
    try:
        document: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    if not isinstance(document, Mapping):
        return ""
    return message_of(document.get("error")) or message_of(document)


def message_of(error: object) -> str:
    """The message of an error object, or the error itself if it is a text."""
    if isinstance(error, Mapping):
        found = (error.get(name) for name in ("message", "detail"))
        return next((text for text in found if isinstance(text, str)), "")
    return error if isinstance(error, str) else ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the provider asks us to wait, None if it does not say."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", text):
        return min(float(text), MAX_PAUSE)
    try:
        at = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return min(max(0.0, at.timestamp() - time.time()), MAX_PAUSE)


def failure_of(status: int, body: bytes, headers: Mapping[str, str], *, key: str | None) -> IngleError:
    """The failure that an answer other than 2xx is."""
    said = cleaned(message_in(body), key)
    reason = f": {said}" if said else ""
    if status in (400, 413, 422):
        return InvalidRequest(f"the provider refuses the request{reason}")
    if status in (401, 403):
        # Its words often quote a part of the key.
        return ProviderRefusesKey()
    if status == 429:
        return RateLimited(f"the provider takes no more requests for now{reason}", retry_after_seconds=_pause(headers))
    if status == 503:
        return ProviderUnavailable(f"the provider is unavailable{reason}", retry_after_seconds=_pause(headers))
    if 300 <= status < 400:
        return ProviderError("the provider sends us elsewhere, and redirects are not followed")
    return ProviderError(f"the provider answers {status}{reason}")


def _pause(headers: Mapping[str, str]) -> float:
    seconds = retry_after(headers)
    return 1.0 if seconds is None else seconds

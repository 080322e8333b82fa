"""How long an idle model stays in memory, in the spellings that Ollama's clients use."""

import math
import re

from domain.errors import InvalidRequest

FOREVER = math.inf

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ns": 1e-9}
_TERM = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(h|ms|us|\u00b5s|\u03bcs|ns|m|s)")
_MAX_TEXT = 64
_GO_MAX_SECONDS = 2**63 * 1e-9


def parse_go_duration(text: str) -> float:
    """Seconds of a Go duration such as `300ms`, `1.5h` or `-2h45m`; a bare `0` is allowed, as in Go.

    Raises ValueError for anything else.
    """
    body = text.strip()
    sign = -1.0 if body.startswith("-") else 1.0
    body = body[1:] if body.startswith(("-", "+")) else body
    if body == "0":
        return 0.0
    terms = list(_TERM.finditer(body)) if len(body) <= _MAX_TEXT else []
    if not terms or "".join(term.group() for term in terms) != body:
        raise ValueError(f"'{text[:_MAX_TEXT]}' is not a duration: write it like 300ms, 90s, 5m or 1.5h")
    return sign * sum(float(term[1]) * _UNITS[term[2]] for term in terms)


def parse_keep_alive(value: object) -> float:
    """Seconds to stay after the last use: 0 = leave at once, FOREVER for any negative value.

    `value` is a number of seconds or a Go duration; what Go's Duration cannot hold (292 years) is FOREVER too.
    Raises InvalidRequest naming `keep_alive`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidRequest(
            f"keep_alive must be seconds or a duration such as '5m', not {type(value).__name__}", field="keep_alive"
        )
    if isinstance(value, str):
        try:
            seconds = parse_go_duration(value)
        except ValueError as error:
            raise InvalidRequest(f"keep_alive: {error}", field="keep_alive") from None
    else:
        seconds = value
    if isinstance(seconds, float) and math.isnan(seconds):
        raise InvalidRequest("keep_alive must be a number", field="keep_alive")
    return float(seconds) if 0 <= seconds <= _GO_MAX_SECONDS else FOREVER

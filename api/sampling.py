"""Fields that several forms of request share, and how they become domain values."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from api.auth import caller_of
from api.errors import InvalidFields, Problem
from api.services import Limits
from domain.access import Caller
from domain.errors import InvalidRequest, UnsupportedParameter
from domain.keep_alive import parse_keep_alive

ANY_SEED = -1
MAX_TIMEOUT = 86_400.0


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    """A single string is a list of one."""
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def seed_of(seed: int | None) -> int | None:
    """None, and -1 as in Ollama, mean a random one."""
    return None if seed is None or seed == ANY_SEED else seed


def bias_of(given: Mapping[str, float] | None) -> tuple[tuple[int, float], ...]:
    """Pairs of token id and bias; those of 0 do nothing and are not looked at. Raises InvalidRequest."""
    pairs = [(token, value) for token, value in (given or {}).items() if value]
    if not all(token.isascii() and token.isdecimal() and len(token) <= 9 for token, _ in pairs):
        raise InvalidRequest("logit_bias must have token ids as its keys, written as numbers", field="logit_bias")
    return tuple((int(token), value) for token, value in pairs)


def keep_alive_of(limits: Limits, caller: Caller, value: float | str | None) -> float | None:
    """Seconds to stay in memory after the last use, or None for the server's default, which only ADMIN exceeds."""
    if value is None:
        return None
    seconds = parse_keep_alive(value)
    return seconds if caller.is_admin else min(seconds, limits.keep_alive)


def new_tokens(wish: int | None, ceiling: int | None) -> int | None:
    """The wish, cut to the operator's ceiling."""
    if ceiling is None:
        return wish
    return ceiling if wish is None else min(wish, ceiling)


def deadline_of(request: Request, timeout: float | None, ceiling: float) -> float:
    """Seconds until an answer ends with what there is: the smallest of header, field and ceiling."""
    limits = [ceiling]
    if timeout is not None:
        limits.append(_checked_timeout("timeout", timeout))
    header = request.headers.get("x-request-timeout")
    if header is not None:
        try:
            limits.append(_checked_timeout("X-Request-Timeout", float(header)))
        except ValueError:
            raise InvalidRequest("X-Request-Timeout must be seconds", field="X-Request-Timeout") from None
    return min(limits)


def within(timeout: float | None, ceiling: float) -> float:
    """Seconds that work may take where nobody waits on a connection: the smaller of field and ceiling."""
    return ceiling if timeout is None else min(_checked_timeout("timeout", timeout), ceiling)


def _checked_timeout(name: str, seconds: float) -> float:
    if not 0 < seconds <= MAX_TIMEOUT:
        raise InvalidRequest(f"{name} must be above 0 and at most {MAX_TIMEOUT:g} seconds", field=name)
    return seconds


def client_of(request: Request) -> str:
    """Whose turn a request takes: that of its key, or of its address where it has none."""
    if name := caller_of(request.scope).name:
        return f"key:{name}"
    return request.client.host if request.client is not None else ""


def refuse_unless_neutral(body: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise UnsupportedParameter for a field that would change the answer and is not offered yet.

    `neutral` maps each such field to the values that change nothing; None is one of them everywhere.
    """
    for name, values in neutral.items():
        value = body.get(name)
        if value is None or any(value == other and type(value) is type(other) for other in values):
            continue
        raise UnsupportedParameter(f"{name} is not offered yet: leave it out", field=name)


def in_body(error: InvalidRequest, names: Mapping[str, str]) -> InvalidRequest:
    """`error` under the names that the body has for the domain's fields."""
    name = names.get(error.field or "")
    if name is None or type(error) is not InvalidRequest:
        return error
    return InvalidFields([Problem(tuple(name.split(".")), str(error).removeprefix(f"{error.field} "))])

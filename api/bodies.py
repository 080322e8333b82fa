"""Strict JSON: what a request's body and query say, as a checked model."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.types import Receive

from api.errors import ClientLeft, InvalidFields, InvalidJson, MissingBody, Problem, UnsupportedMediaType
from domain.json_text import has_long_number

MAX_DEPTH = 64
OFF_LOOP_BYTES = 64 << 10
MAX_PROBLEMS = 20
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1


class Body(BaseModel):
    """A JSON object: types are strict, unknown keys are ignored, nothing is changed once it is read."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


B = TypeVar("B", bound=Body)


async def read_bytes(receive: Receive) -> bytes:
    """The whole body; the guard in front bounds it. Raises ClientLeft if the client goes away meanwhile."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft()
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


def parse_json(raw: bytes) -> Any:
    """The value of a JSON text. Raises InvalidJson: NaN, lone surrogates, numbers beyond 64 bits, depth over 64."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"the body is not valid JSON: {error}") from None
    _check_depth(value)
    if has_long_number(raw):
        json.loads(raw, parse_int=_bounded_integer)
    return value


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [child for container in level for child in _children(container) if isinstance(child, dict | list)]
    if level:
        raise InvalidJson(f"the body is not valid JSON: it is nested deeper than {MAX_DEPTH}")


def _children(container: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


def _bounded_integer(digits: str) -> int:
    # The length first: Python refuses to convert thousands of digits.
    if len(digits) > 20 or not _INT64_MIN <= int(digits) <= _UINT64_MAX:
        raise InvalidJson("the body is not valid JSON: an integer has more than 64 bits")
    return int(digits)


async def read_object(request: Request, *, required: bool = True) -> dict[str, Any]:
    """The JSON object in the body, whatever the Content-Type except multipart.

    No body at all raises MissingBody, or is an empty object where it is not `required`.
    """
    if request.headers.get("content-type", "").lower().lstrip().startswith("multipart/"):
        raise UnsupportedMediaType("this route takes JSON, not multipart")
    raw = await read_bytes(request.receive)
    if not raw.strip():
        if required:
            raise MissingBody()
        return {}
    value = parse_json(raw) if len(raw) <= OFF_LOOP_BYTES else await asyncio.to_thread(parse_json, raw)
    if not isinstance(value, dict):
        raise InvalidFields([Problem((), "the body must be a JSON object")])
    return value


async def checked(kind: type[B], value: Mapping[str, Any]) -> B:
    """`value` as a body of that kind. Raises InvalidFields naming each wrong field."""
    if any(isinstance(field, list) and len(field) > 1000 for field in value.values()):
        return await asyncio.to_thread(validate, kind, value)
    return validate(kind, value)


def validate(kind: type[B], value: Mapping[str, Any], *, strict: bool = True) -> B:
    """As `checked`, at once; not `strict` where values come as text (queries, forms)."""
    try:
        return kind.model_validate(value, strict=strict)
    except ValidationError as error:
        raise invalid_fields(error) from None


def invalid_fields(error: ValidationError) -> InvalidFields:
    """The findings of pydantic without the values that they are about."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return InvalidFields([Problem(item["loc"], item["msg"]) for item in found[:MAX_PROBLEMS]])


async def read_parameters(request: Request, kind: type[B]) -> B:
    """Parameters from the query string, a JSON body, or both; one name with two values is refused."""
    body = await read_object(request, required=False)
    validate(kind, body)
    query = from_query(request.query_params)
    asked = validate(kind, query, strict=False).model_dump(include=set(query), exclude_unset=True)
    for name, value in asked.items():
        if name in body and body[name] != value:
            raise InvalidFields([Problem((name,), "the query string and the body have different values")])
    return validate(kind, {**body, **asked})


def from_query(params: QueryParams) -> dict[str, Any]:
    """A query string as an object; a number where a duration may stand is seconds, as in JSON."""
    values: dict[str, Any] = {}
    for name in params:
        given = set(params.getlist(name))
        if len(given) > 1:
            raise InvalidFields([Problem((name,), "the query string has different values")])
        values[name] = seconds_or_text(params[name]) if name == "keep_alive" else params[name]
    return values


def seconds_or_text(text: str) -> float | str:
    """A bare number is seconds, as in JSON; anything else is left to whoever knows durations."""
    try:
        return float(text)
    except ValueError:
        return text

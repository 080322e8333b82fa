"""Strict JSON of the job API: what no database can keep is 422, what is no JSON is 400."""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn
from uuid import UUID

from pydantic import BeforeValidator
from starlette.requests import Request

from api.bodies import OFF_LOOP_BYTES, B, from_query, parse_json, read_bytes, validate
from api.errors import (
    InvalidFields,
    InvalidJson,
    InvalidValue,
    MissingBody,
    PayloadTooLarge,
    Problem,
    UnsupportedMediaType,
)
from domain.errors import JobNotFound

SMALL = 64 << 10
_WHOLE = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


async def read_job_json(request: Request, *, limit: int = SMALL, required: bool = True) -> dict[str, Any]:
    """The JSON object in the body, of at most `limit` bytes; empty where there is none and it is not `required`."""
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType("this route takes application/json")
    raw = await read_bytes(request.receive)
    if len(raw) > limit:
        raise PayloadTooLarge(limit)
    if not raw.strip():
        if required:
            raise MissingBody()
        return {}
    value = _parsed(raw) if len(raw) <= OFF_LOOP_BYTES else await asyncio.to_thread(_parsed, raw)
    if not isinstance(value, dict):
        raise InvalidFields([Problem((), "the body must be a JSON object")])
    return value


def _parsed(raw: bytes) -> Any:
    try:
        value = parse_json(raw)
    except InvalidJson as error:
        raise _kind_of(raw, error) from None
    if b"\\u0000" in raw and _has_nul(value):
        raise InvalidValue("the body holds a NUL character")
    return value


def _kind_of(raw: bytes, error: InvalidJson) -> InvalidJson | InvalidValue:
    """Whether what the strict parser refused is JSON nevertheless, with a value that cannot be kept."""
    if raw.startswith(_BOMS):
        return error
    try:
        json.loads(raw.decode(), parse_constant=_refuse)
    except RecursionError:
        return InvalidValue(str(error))
    except ValueError:
        return error
    return InvalidValue(str(error))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(map(_has_nul, value)) or any(map(_has_nul, value.values()))
    return isinstance(value, list) and any(map(_has_nul, value))


def job_id_of(request: Request) -> str:
    """The id in the path. Raises JobNotFound for what is not a UUID in its one spelling."""
    text = str(request.path_params["id"])
    try:
        if len(text) == 36 and str(UUID(text)) == text:
            return text
    except ValueError:
        pass
    raise JobNotFound


def one_said(first: Any, second: Any, names: tuple[str, str]) -> Any:
    """The value that a header or another field may say too; two different ones are refused."""
    if first is not None and second is not None and first != second:
        raise InvalidFields([Problem((names[0],), f"{names[0]} and {names[1]} have different values")])
    return second if first is None else first


def _whole(value: object) -> object:
    if isinstance(value, str) and not _WHOLE.fullmatch(value):
        raise ValueError("must be a whole number")
    return value


WholeNumber = Annotated[int, BeforeValidator(_whole)]
"""An integer of a query string, in digits: `4.0`, `+4` and `4_0` are none."""


def query_of(request: Request, kind: type[B], *, lists: frozenset[str] = frozenset()) -> B:
    """The query string as a checked model; those in `lists` may be repeated."""
    values: Mapping[str, Any] = from_query(
        type(request.query_params)([pair for pair in request.query_params.multi_items() if pair[0] not in lists])
    )
    repeated = {name: request.query_params.getlist(name) for name in lists if name in request.query_params}
    return validate(kind, {**values, **repeated}, strict=False)

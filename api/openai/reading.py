"""How this dialect reads a JSON body, and says what is wrong with it."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from api.bodies import read_object
from api.errors import InvalidFields, Problem, UnsupportedMediaType

JSON = "application/json"


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object in the body. Raises UnsupportedMediaType for any Content-Type but `application/json` or none."""
    essence = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if essence not in ("", JSON):
        raise UnsupportedMediaType(f"this route takes {JSON}")
    return await read_object(request)


def given(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that say something: null means absent."""
    return {name: value for name, value in body.items() if value is not None}


def wrong(path: str, why: str) -> InvalidFields:
    """A field, named by its path (`messages.0.content`), that has a wrong value."""
    return InvalidFields([Problem(tuple(path.split(".")), why)])

"""/docs and /openapi.json: Swagger UI from files of the package, so that it works without a network."""

import functools
import importlib.resources
import json
import re
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from starlette.responses import HTMLResponse, JSONResponse, Response

from api.auth import needs, public
from api.bodies import Body
from domain.access import Scope

# No other host may be asked for anything; Swagger UI sets styles from its script and draws data: images.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CACHE_CONTROL = "public, max-age=86400"

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Ingle API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="data:,">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = 'SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null});\n'
_IN_PATH = re.compile(r"\{(\w+)\}")
_ASSETS = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}


def routes(app: FastAPI, *, anybody: bool = False) -> APIRouter:
    """The routes of this page, for `anybody` or for every key; the description is that of `app`."""
    opened = public if anybody else needs(*Scope)
    router = APIRouter(include_in_schema=False)
    static = importlib.resources.files("fastapi_offline") / "static"
    assets = {name: (static / name).read_bytes() for name in _ASSETS}
    assets["start.js"] = _START.encode()

    @router.get("/docs")
    @opened
    async def docs() -> Response:
        return HTMLResponse(_PAGE, headers={"content-security-policy": CONTENT_SECURITY_POLICY})

    @router.get("/openapi.json")
    @opened
    async def openapi() -> Response:
        return JSONResponse(with_keys(with_path_parameters(app.openapi())))

    def serve(name: str, content: bytes) -> None:
        @router.get(f"/docs/{name}", name=name)
        @opened
        async def asset() -> Response:
            media_type = _ASSETS.get(name, "text/javascript")
            return Response(content, media_type=media_type, headers={"cache-control": CACHE_CONTROL})

    for name, content in assets.items():
        serve(name, content)
    return router


def with_keys(description: dict[str, Any]) -> dict[str, Any]:
    """The description, and how a key is shown; a server without keys asks for none."""
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    components = {**description.get("components", {}), "securitySchemes": schemes}
    return {**description, "components": components, "security": [*({name: []} for name in schemes), {}]}


def with_path_parameters(description: dict[str, Any]) -> dict[str, Any]:
    """The description, and in it the parts of each path that vary: our routes take them from the request themselves."""
    return {
        **description,
        "paths": {path: _with_its_parts(path, operations) for path, operations in description["paths"].items()},
    }


def _with_its_parts(path: str, operations: Mapping[str, Any]) -> dict[str, Any]:
    parts = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in _IN_PATH.findall(path)
    ]
    described: dict[str, Any] = {}
    for method, operation in operations.items():
        there = operation.get("parameters", [])
        said = {one["name"] for one in there if one["in"] == "path"}
        all_of_them = [*(part for part in parts if part["name"] not in said), *there]
        described[method] = {**operation, "parameters": all_of_them} if all_of_them else operation
    return described


def describes(
    kind: type[Body], *, required: bool = True, query: bool = False, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What OpenAPI says of a route whose body we read ourselves; with `query`, each field may also stand there.

    `headers` are those that it looks at, with what they are for.
    """
    schema = schema_of(kind)
    extra: dict[str, Any] = {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}
    if parameters := [*(query_parameters(kind) if query else ()), *header_parameters(headers or {})]:
        extra["parameters"] = parameters
    return extra


def gives(kind: type[BaseModel], what: str) -> dict[str, Any]:
    """What OpenAPI says of an answer: `what` it is, and its fields."""
    return {"description": what, "content": {"application/json": {"schema": schema_of(kind)}}}


def header_parameters(headers: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each header as a parameter that may be left out."""
    return [
        {"name": name, "in": "header", "description": what, "schema": {"type": "string"}}
        for name, what in headers.items()
    ]


def query_parameters(kind: type[Body]) -> list[dict[str, Any]]:
    """Each field of `kind` as a parameter of the query string."""
    properties: dict[str, Any] = schema_of(kind)["properties"]
    return [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]


@functools.cache
def schema_of(kind: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a body, or an answer, with every definition in its place: OpenAPI looks for them elsewhere."""
    schema = kind.model_json_schema()
    definitions = schema.pop("$defs", {})
    return _resolved(schema, definitions)


def _resolved(schema: dict[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """No body here holds one of its own kind, so this comes to an end."""

    def resolve(part: dict[str, Any]) -> dict[str, Any]:
        reference = part.get("$ref")
        if not isinstance(reference, str):
            return part
        return _resolved(definitions[reference.rpartition("/")[2]], definitions)

    resolved: dict[str, Any] = json.loads(json.dumps(schema), object_hook=resolve)
    return resolved

"""/docs and /openapi.json: Swagger UI from files of the package, so that it works without a network."""

import functools
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, FastAPI
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
        return JSONResponse(with_keys(app.openapi()))

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


def describes(kind: type[Body], *, required: bool = True, query: bool = False) -> dict[str, Any]:
    """What OpenAPI says of a route whose body we read ourselves; with `query`, each field may also stand there."""
    schema = schema_of(kind)
    extra: dict[str, Any] = {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}
    if query:
        extra["parameters"] = query_parameters(kind)
    return extra


def query_parameters(kind: type[Body]) -> list[dict[str, Any]]:
    """Each field of `kind` as a parameter of the query string."""
    properties: dict[str, Any] = schema_of(kind)["properties"]
    return [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]


@functools.cache
def schema_of(kind: type[Body]) -> dict[str, Any]:
    """The JSON schema of a body with every definition in its place: OpenAPI looks for them elsewhere."""
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

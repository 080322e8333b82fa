"""What the description of the job API promises to clients, one line for each promise, so that two can be compared.

`>` is what a client may send, `<` what it gets; `!` is what must be there. `python -m tests.api.jobs.promises` records
what was added since; it refuses to take a promise back, which only a person may, in the file.
"""

import asyncio
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from api.docs_page import with_path_parameters
from tests.api.jobs.conftest import KeeperClock, job_services
from tests.api.world import make_world
from tests.databases import sqlite_jobs
from tests.fakes.webhooks import FakeReceiver

RECORDED = Path(__file__).parents[2] / "data" / "job_api.txt"
MINE = ("/api/v1/", "/task/")
_BOUNDS = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern", "format", "default")


def promises(description: Mapping[str, Any]) -> list[str]:
    """Every promise of an OpenAPI document that concerns jobs, in order."""
    found: list[str] = []
    for path, operations in description["paths"].items():
        if path.startswith(MINE):
            for method, operation in operations.items():
                found += _of_operation(f"{method.upper()} {path}", operation)
    return sorted(found)


def _of_operation(name: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield name
    for one in operation.get("parameters", ()):
        must = "!" if one.get("required") else ""
        yield f"{name} > {one['in']}.{one['name']}{must} {_kind(one['schema'])}"
    if body := operation.get("requestBody"):
        must = "!" if body.get("required") else ""
        yield f"{name} > body{must}"
        yield from _fields(f"{name} > body", body["content"]["application/json"]["schema"])
    for status, answer in operation["responses"].items():
        yield f"{name} < {status}"
        for media, content in answer.get("content", {}).items():
            if media == "application/json":
                yield from _fields(f"{name} < {status}", content["schema"])


def _fields(at: str, schema: Mapping[str, Any]) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        must = "!" if name in schema.get("required", ()) else ""
        yield f"{at}.{name}{must} {_kind(field)}"
        yield from _fields(f"{at}.{name}", field)
    for choice in schema.get("anyOf", ()):
        yield from _fields(at, choice)
    for inner, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(part := schema.get(inner), dict):
            yield from _fields(at + mark, part)


def _kind(schema: Mapping[str, Any]) -> str:
    bounds = "".join(f" {name}={schema[name]}" for name in _BOUNDS if name in schema)
    if "anyOf" in schema:
        return " | ".join(map(_kind, schema["anyOf"])) + bounds
    if "enum" in schema:
        return f"({', '.join(map(str, schema['enum']))}){bounds}"
    kind = schema.get("type", "any")
    if kind == "array":
        kind = f"[{_kind(schema['items'])}]"
    elif isinstance(values := schema.get("additionalProperties"), dict):
        kind = f"{{{_kind(values)}}}"
    return f"{kind}{bounds}"


def broken(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """What a client that trusts `old` finds broken in `new`: promises that are gone, and new demands on it."""
    known, now = set(old), set(new)
    gone = [line for line in old if line not in now and not (" > " in line and line.replace("!", "", 1) in now)]
    demands = [
        line
        for line in new
        if line not in known and " > " in line and "!" in line and line.partition(" > ")[0] in known
    ]
    return gone + demands


async def described() -> list[str]:
    """What is promised now."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = make_world(folder / "uploads")
        async with sqlite_jobs(folder) as kept:
            services = job_services(kept, KeeperClock(), FakeReceiver(), folder / "files")
            return promises(with_path_parameters(world.app(jobs=services).openapi()))


def _record() -> int:
    now = asyncio.run(described())
    if RECORDED.exists() and (lost := broken(RECORDED.read_text(encoding="utf-8").splitlines(), now)):
        sys.stderr.write("\n".join(["these promises would be broken:", *lost, ""]))
        return 1
    RECORDED.write_text("\n".join([*now, ""]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(_record())

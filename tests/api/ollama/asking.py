"""What the tests of this dialect have in common: its models, and how its answers are read."""

from datetime import UTC, datetime
from typing import Any

import httpx2
import orjson

from domain.model import ModelSpec
from domain.preset import Preset
from tests.api.world import World
from tests.fakes.models import text_spec

Json = dict[str, Any]

SKILLED = "skilled:1b"
PRESET = "polite:latest"
USER = [{"role": "user", "content": "one two three"}]
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "tells it", "parameters": {"type": "object", "properties": {}}},
}


def spec(name: str, *capabilities: str, preset: Preset | None = None) -> ModelSpec:
    """A text model that can do more than complete."""
    known = text_spec(name)
    return ModelSpec(
        name,
        known.title,
        known.task,
        known.format,
        family=known.family,
        context_length=known.context_length,
        size_bytes=known.size_bytes,
        parameters=known.parameters,
        capabilities=("completion", *capabilities),
        digest="ab" * 32,
        modified_at=1_700_000_000.5,
        preset=preset or Preset(),
    )


def install(world: World, *specs: ModelSpec) -> None:
    """Put models on the world's disk."""
    world.repository.specs.extend(specs)


def lines_of(response: httpx2.Response) -> list[Json]:
    """The records of a whole stream: every line a JSON object, none of them empty."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    *lines, rest = response.content.split(b"\n")
    assert rest == b""
    records = [orjson.loads(line) for line in lines]
    assert all(isinstance(record, dict) for record in records)
    return records


def whole(response: httpx2.Response) -> Json:
    """The one object of an answer in one piece."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    record = response.json()
    assert isinstance(record, dict)
    return record


def refused(response: httpx2.Response, status: int, text: str) -> None:
    """An error in this dialect, to the letter."""
    assert (response.status_code, response.json()) == (status, {"error": text})
    assert response.headers["content-type"] == "application/json"


def moment(text: str) -> float:
    """Seconds since the epoch of a date in an answer, which has nine digits after the point."""
    whole_seconds, _, fraction = text.removesuffix("Z").partition(".")
    assert len(fraction) == 9
    return datetime.strptime(whole_seconds, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp() + int(fraction) / 1e9

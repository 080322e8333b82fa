"""The description of the job API: it keeps what it promised, and real answers are what it says."""

import re
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest

from api.docs_page import with_path_parameters
from tests.api.jobs.conftest import BODY, Office
from tests.api.jobs.promises import MINE, RECORDED, broken, described, promises

_ID = re.compile(r"(?<=/)[0-9a-f]{8}-[0-9a-f-]{27}")
_NAMED = re.compile(r"/(queues|owners)/.+")
_PARTS = {"queues": "{model_profile}", "owners": "{owner_service}"}


async def test_the_description_promises_what_it_promised() -> None:
    recorded, now = RECORDED.read_text(encoding="utf-8").splitlines(), await described()
    assert broken(recorded, now) == []
    assert sorted(set(now) - set(recorded)) == [], "record these with python -m tests.api.jobs.promises"


def description(**body: Mapping[str, Any]) -> dict[str, Any]:
    """A route that takes `body` and gives an id."""
    schema = {"type": "object", "properties": body, "required": [name for name in body if name.startswith("must")]}
    answer = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}
    said = {"parameters": [], "responses": {"200": {"content": {"application/json": {"schema": answer}}}}}
    taken = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
    return {"paths": {"/api/v1/x": {"post": said | taken}}}


OLD = promises(description(must={"type": "string"}, limit={"type": "integer", "maximum": 100}))
CHANGES: tuple[tuple[dict[str, Any], int], ...] = (
    (description(must={"type": "string"}, limit={"type": "integer", "maximum": 100}, more={"type": "string"}), 0),
    (description(must={"type": "string"}), 1),
    (description(must={"type": "string"}, limit={"type": "integer", "maximum": 50}), 1),
    (description(must={"type": "string"}, limit={"type": "string", "maximum": 100}), 1),
    (description(must={"type": "string"}, limit={"type": "integer", "maximum": 100}, must_too={"type": "string"}), 1),
    ({"paths": {}}, len(OLD)),
    ({"paths": {**description()["paths"], "/api/v1/y": description(must={})["paths"]["/api/v1/x"]}}, 2),
)


@pytest.mark.parametrize(("after", "count"), CHANGES)
def test_whatever_would_break_a_client_is_found(after: dict[str, Any], count: int) -> None:
    assert len(broken(OLD, promises(after))) == count


def test_a_field_may_become_one_that_can_be_left_out() -> None:
    assert broken(["POST /x", "POST /x > body.a! string"], ["POST /x", "POST /x > body.a string"]) == []
    assert broken(["POST /x", "POST /x < 200.a! string"], ["POST /x", "POST /x < 200.a string"]) != []


def closed(schema: Any) -> Any:
    """The schema, with nothing allowed that it does not name."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {name: closed(part) for name, part in schema.items()}
    return {"additionalProperties": False, **parts} if isinstance(schema.get("properties"), dict) else parts


async def conversation(office: Office) -> None:
    """Everything that the routes have to say when all goes well."""
    url = "https://hooks.example/jobs"
    key = BODY | {"idempotency_key": "k", "callback_url": url}
    job = (await office.post("/jobs", key)).json()["id"]
    await office.post("/jobs", key)
    batch = {"defaults": BODY, "jobs": [{"owner_ref": "many"}] * 4, "idempotency_key": "b"}
    for _ in range(2):
        await office.post("/jobs/batch", batch)
    held = {one["id"]: {"lease_token": one["lease_token"]} for one in await office.claim(limit=5)}
    await office.post(f"/jobs/{job}/heartbeat", held[job] | {"progress": {"current": 1}})
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    await office.post(f"/jobs/{job}/complete", held.pop(job) | {"result": {"n": 1}, "usage": usage})
    (ends, failed), (waits, waiting), (back, given), (running, _) = held.items()
    await office.post(f"/jobs/{ends}/fail", failed | {"category": "bad_input", "message": "no"})
    await office.post(f"/jobs/{waits}/fail", waiting | {"category": "timeout"})
    await office.post(f"/jobs/{back}/release", given)
    for one in (back, running):
        await office.post(f"/jobs/{one}/cancel", {"reason": "enough"})
    await office.get("/jobs", include="input,result")
    await office.get(f"/jobs/{ends}", include="attempts")
    await office.get(f"/jobs/{ends}/events")
    await office.client.get(f"/task/{job}")
    await office.post("/jobs/cancel", {"filter": {"owner_ref": "many"}, "limit": 10, "dry_run": True})
    await office.post("/jobs/retry", {"filter": {"status": ["failed"]}, "limit": 10})
    await office.post(f"/jobs/{back}/retry")
    retry = {"base_seconds": 5, "retry_codes": ["bad_audio"]}
    await office.client.patch(f"/api/v1/queues/{BODY['model_profile']}", json={"max_running": 3, "retry": retry})
    await office.client.patch("/api/v1/owners/telephony", json={"weight": 2, "max_pending": 100})
    for page in ("/stats", "/workers", "/queues", "/owners", "/providers/status"):
        await office.get(page)
    [delivery] = (await office.get("/webhooks/deliveries")).json()["deliveries"]
    await office.post(f"/webhooks/deliveries/{delivery['id']}/redeliver")
    await office.client.delete(f"/api/v1/jobs/{job}")


async def test_answers_are_what_the_description_says(kept_office: Office) -> None:
    office = kept_office
    said = with_path_parameters(office.world.app(jobs=office.services).openapi())["paths"]
    promised = {
        (method.upper(), path, status): answer.get("content", {}).get("application/json", {}).get("schema")
        for path, operations in said.items()
        if path.startswith(MINE) and not path.endswith("/audio")
        for method, operation in operations.items()
        for status, answer in operation["responses"].items()
    }
    seen = set()
    ask = office.client.request

    async def noted(method: str, url: Any, **given: Any) -> Any:
        answer = await ask(method, url, **given)
        path = _NAMED.sub(lambda named: f"/{named[1]}/{_PARTS[named[1]]}", _ID.sub("{id}", answer.request.url.path))
        which = (method, path, str(answer.status_code))
        assert which in promised, (which, answer.text)
        if (schema := promised[which]) is not None:
            jsonschema.validate(answer.json(), closed(schema))
        seen.add(which)
        return answer

    office.client.request = noted  # type: ignore[method-assign]
    await conversation(office)
    assert set(promised) - seen == set()

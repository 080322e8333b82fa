"""Prefer: respond-async, and tasks: requests that become jobs, and jobs as clients of task queues know them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.jobs.recordings import RecordingInput
from api.speech_fields import options_of
from api.speech_options import TranscribeOptions
from domain.access import Scope
from domain.job_limits import OwnerRules
from domain.job_repository import Complete, Fail, Settlement
from tests.api.jobs.at_work import at_work
from tests.api.jobs.conftest import IN_MEMORY, Office
from tests.api.jobs.test_recordings import URL, kept, lasting, settled
from tests.api.problems import refused
from tests.api.sound import SOUND, upload
from tests.api.world import SPEECH, TEXT, in_process
from tests.fakes.keys import keys, shown, stored

ASYNC = {"prefer": "wait=5, respond-async"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"


def accepted(response: httpx2.Response) -> str:
    """The id of the job that was promised."""
    assert response.status_code == 202, response.text
    answer = response.json()
    job_id: str = answer["id"]
    assert answer == {"id": job_id, "task_id": job_id, "status": "pending"}
    assert response.headers["location"] == f"/api/v1/jobs/{job_id}"
    assert response.headers["preference-applied"] == "respond-async"
    return job_id


async def task(office: Office, job_id: str, prefix: str = "", **params: Any) -> dict[str, Any]:
    response = await office.client.get(f"{prefix}/task/{job_id}", params=params)
    assert response.status_code == 200, response.text
    return response.json()  # type: ignore[no-any-return]


# -- requests that become jobs -------------------------------------------------------------------------


async def test_an_upload_becomes_the_recording_of_a_job(office: Office, tmp_path: Path) -> None:
    said = {"language": "de", "include_segments": "true"}
    direct = (await office.client.post("/transcribe", files=upload(), data=said)).json()
    job_id = accepted(await office.client.post("/transcribe", files=upload(), data=said, headers=ASYNC))
    assert len(kept(tmp_path)) == 1
    assert await task(office, job_id) == {"id": job_id, "status": "PENDING", "result": None, "error": None}
    async with at_work(office):
        job = await settled(office, job_id)
    done = await task(office, job_id, "/api")
    assert (done["status"], done["error"], done["result"]) == ("SUCCESS", None, job["result"])
    assert lasting(direct).items() <= done["result"].items()
    assert done["result"]["segments"] == direct["segments"]
    assert (job["task_type"], job["owner_service"], job["input"]["language"]) == ("transcribe", "respond-async", "de")
    assert office.world.repository.speech(SPEECH).heard[-1].content == SOUND
    assert await office.services.files.sweep() == 1
    assert kept(tmp_path) == office.world.uploads == []


async def test_a_bare_body_and_the_query_string_become_a_job_too(office: Office) -> None:
    headers = ASYNC | {"content-type": "audio/mpeg", "x-request-timeout": "7"}
    response = await office.client.post(
        "/transcribe", content=SOUND, params={"response_format": "srt", "model": "whisper-1"}, headers=headers
    )
    async with at_work(office):
        job = await settled(office, accepted(response))
    assert (job["result"]["rendered"]["format"], job["model_profile"], job["timeout_seconds"]) == (
        "srt",
        "whisper-1",
        7,
    )


async def test_an_address_becomes_a_job(office: Office) -> None:
    office.world.fetcher.pages[URL] = SOUND
    response = await office.client.post("/transcribe/url", json={"url": URL, "beam_size": 3}, headers=ASYNC)
    async with at_work(office):
        job = await settled(office, accepted(response))
    assert (job["task_type"], job["input"]) == ("transcribe_url", {"url": URL, "beam_size": 3})
    assert job["result"]["text"] == "Hello world. How are you?"
    assert office.world.repository.speech(SPEECH).heard[-1].request.decoding.beam_size == 3


@pytest.mark.parametrize(
    "body",
    [
        {"query": "Is this a threat?", "context": ["one", "two"], "seed": 7},
        {"prompt": "one two", "options": {"num_predict": 5}, "model": TEXT},
        {"messages": [{"role": "user", "content": "hi"}], "stream": False},
    ],
)
async def test_a_generation_becomes_a_job_with_the_same_answer(office: Office, body: dict[str, Any]) -> None:
    direct = (await office.client.post("/generate", json=body | {"stream": False})).json()
    response = await office.client.post("/generate", json=body, headers=ASYNC)
    async with at_work(office):
        job = await settled(office, accepted(response))
    assert (job["task_type"], job["input"]) == ("generate", body)
    said = "response" if "response" in direct else "result"
    assert job["result"][said] == direct[said] != ""
    assert job["result"].keys() == direct.keys()


@pytest.mark.parametrize(
    ("path", "sent", "status", "code"),
    [
        ("/transcribe", {"files": upload(), "data": {"stream": "true"}}, 422, "unsupported_parameter"),
        ("/transcribe", {"files": upload(), "data": {"beam_size": "11"}}, 422, "validation_error"),
        ("/transcribe", {"files": upload(), "data": {"model": "nobody:1b"}}, 404, "model_not_found"),
        ("/transcribe", {"files": upload(), "data": {"model": TEXT}}, 422, "unsupported_capability"),
        ("/transcribe", {"files": upload(content=b"")}, 422, "empty_audio"),
        ("/transcribe", {"files": upload("other")}, 422, "validation_error"),
        ("/transcribe/url", {"json": {"url": URL, "stream": True}}, 422, "unsupported_parameter"),
        ("/transcribe/url", {"json": {"url": "http://127.0.0.1/x"}}, 400, "url_not_allowed"),
        ("/transcribe/url", {"json": {}}, 422, "validation_error"),
        ("/transcribe/batch", {"files": upload("files")}, 501, "not_implemented"),
        ("/generate", {"json": {"prompt": "hi", "stream": True}}, 422, "unsupported_parameter"),
        ("/generate", {"json": {"query": "hi", "stream": True}}, 422, "unsupported_parameter"),
        ("/generate", {"json": {"prompt": "hi", "temperature": -1}}, 422, "validation_error"),
        ("/generate", {"json": {"query": "hi", "temperature": -1}}, 422, "validation_error"),
        ("/generate", {"json": {"prompt": "hi", "model": "nobody:1b"}}, 404, "model_not_found"),
        ("/generate", {"json": {"query": "hi", "model": SPEECH}}, 422, "unsupported_capability"),
        ("/generate", {"json": {"prompt": "x" * (1 << 20)}}, 413, "payload_too_large"),
    ],
)
@IN_MEMORY
async def test_what_the_direct_call_refuses_becomes_no_job(
    office: Office, tmp_path: Path, path: str, sent: Mapping[str, Any], status: int, code: str
) -> None:
    office.world.fetcher.pages[URL] = SOUND
    refused(await office.client.post(path, **sent, headers=ASYNC), status, code)
    assert (await office.get("/jobs")).json()["jobs"] == []
    assert kept(tmp_path) == office.world.uploads == []


async def test_an_upload_whose_job_is_refused_is_not_kept(office: Office, tmp_path: Path) -> None:
    await office.services.rules.set_owner(OwnerRules("respond-async", max_pending=1))
    accepted(await office.client.post("/transcribe", files=upload(), headers=ASYNC))
    refused(await office.client.post("/transcribe", files=upload(), headers=ASYNC), 429, "quota_exceeded")
    assert len(kept(tmp_path)) == 1


ASKED: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("/generate", {"json": {"prompt": "one", "seed": 7}}, {"json": {"seed": 8, "prompt": "one"}}),
    ("/transcribe/url", {"json": {"url": URL}}, {"json": {"url": URL, "beam_size": 3}}),
    ("/transcribe", {"files": upload()}, {"files": upload(content=SOUND + b"more")}),
)


@pytest.mark.parametrize(("path", "one", "other"), ASKED)
async def test_requests_with_the_same_key_are_one_job(
    office: Office, tmp_path: Path, path: str, one: dict[str, Any], other: dict[str, Any]
) -> None:
    office.world.fetcher.pages[URL] = SOUND
    keyed = ASYNC | {"idempotency-key": "once"}
    first = await office.client.post(path, **one, headers=keyed)
    job_id = accepted(first)
    again = await office.client.post(path, **one, headers=keyed)
    assert (accepted(again), again.headers["idempotency-replayed"]) == (job_id, "true")
    assert "idempotency-replayed" not in first.headers
    refused(await office.client.post(path, **other, headers=keyed), 422, "idempotency_mismatch")
    assert accepted(await office.client.post(path, **one, headers=ASYNC)) != job_id
    bad = ASYNC | {"idempotency-key": "x" * 129}
    refused(await office.client.post(path, **one, headers=bad), 422, "validation_error")
    jobs = (await office.get("/jobs")).json()["jobs"]
    assert [job["idempotency_key"] for job in jobs] == [None, "once"]
    assert len(kept(tmp_path)) == (2 if path == "/transcribe" else 0)
    assert office.world.uploads == []


FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"language": "English", "prompt": "Ahem.", "task": "translate", "word_timestamps": "true"},
    {"languages": "en,de", "multilingual": "1", "hotwords": ["Ingle", "queue"], "preset": "accurate"},
    {"temperature": "0,0.4,0.8", "best_of": "3", "patience": "2", "no_repeat_ngram_size": "4"},
    {"temperature": "0.5", "compression_ratio_threshold": "null", "log_prob_threshold": "-2"},
    {"clip_timestamps": "0,1.5,2,3", "channel": "left", "vad_filter": "false", "vad_threshold": "0.3"},
    {"response_format": "vtt", "max_line_width": "30", "highlight_words": "true", "max_cue_seconds": "4"},
    {"keep_alive": "5m", "priority": "3", "initial_prompt": "", "hallucination_guard": "false"},
)


@pytest.mark.parametrize("form", FORMS)
def test_options_mean_the_same_to_a_job(form: Mapping[str, Any]) -> None:
    pairs = [(name, one) for name, value in form.items() for one in (value if isinstance(value, list) else [value])]
    direct = options_of(TranscribeOptions, form=pairs)
    later = options_of(RecordingInput, body=direct.as_json() | {"file_path": "files/x"})
    requests = [one.domain_request(beam_size=1, timeout_seconds=60.0) for one in (direct, later)]
    assert requests[0] == requests[1]
    assert (later.keep_alive, later.response_format, later.cue_options()) == (
        direct.keep_alive,
        direct.response_format,
        direct.cue_options(),
    )


# -- jobs as tasks -------------------------------------------------------------------------------------


async def ended(office: Office, report: Complete | Fail) -> str:
    """A job whose attempt ended so."""
    job_id, token = await office.claimed()
    await office.services.jobs.settle(Settlement(job_id, report, token))
    return job_id


async def test_each_state_of_a_job_has_its_word(office: Office) -> None:
    pending = (await office.submit(available_at="2027-01-16T08:00:00Z"))["id"]
    retried = await ended(office, Fail("timeout", "too slow"))
    done = await ended(office, Complete({"result": ["a"]}, "a" * 64))
    failed = await ended(office, Fail("bad_input", "no such field"))
    bare = await ended(office, Fail("bad_audio"))
    cancelled = (await office.submit())["id"]
    await office.post(f"/jobs/{cancelled}/cancel")
    running, _ = await office.claimed()
    views = [await task(office, one) for one in (pending, retried, running, done, failed, bare, cancelled)]
    assert [(view["status"], view["result"], view["error"]) for view in views] == [
        ("PENDING", None, None),
        ("RETRY", None, None),
        ("STARTED", None, None),
        ("SUCCESS", {"result": ["a"]}, None),
        ("FAILURE", None, "bad_input: no such field"),
        ("FAILURE", None, "bad_audio"),
        ("REVOKED", None, None),
    ]
    assert {tuple(view) for view in views} == {("id", "status", "result", "error")}


@pytest.mark.parametrize("prefix", ["", "/api"])
@pytest.mark.parametrize("task_id", [UNKNOWN, "nonsense", UNKNOWN.replace("8", "A")])
@IN_MEMORY
async def test_an_unknown_task_is_404_and_pending_to_those_who_ask_as_of_old(
    office: Office, prefix: str, task_id: str
) -> None:
    refused(await office.client.get(f"{prefix}/task/{task_id}"), 404, "not_found")
    view = await task(office, task_id, prefix, legacy=1)
    assert view == {"id": task_id, "status": "PENDING", "result": None, "error": None}
    refused(await office.client.get(f"{prefix}/task/{task_id}", params={"legacy": "perhaps"}), 422, "validation_error")
    refused(await office.client.post(f"{prefix}/task/{task_id}"), 405, "method_not_allowed")


# -- keys ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def with_keys(office: Office) -> AsyncIterator[httpx2.AsyncClient]:
    """The same office, for those who have keys."""
    everything = (Scope.INFER, Scope.FILES, Scope.JOBS)
    known = keys(
        stored("ann", *everything, owners=["telephony"]),
        stored("bob", *everything, owners=["billing"]),
        stored("two", *everything, owners=["billing", "telephony"]),
        stored("all", *everything),
    )
    async with in_process(office.world.app(jobs=office.services, keys=known)) as client:
        yield client


@IN_MEMORY
async def test_jobs_and_uploads_belong_to_the_owner_of_the_key(office: Office) -> None:
    async with with_keys(office) as client:
        for name, owner in (("ann", "telephony"), ("two", "billing"), ("all", "respond-async")):
            job_id = accepted(await client.post("/transcribe", files=upload(), headers=ASYNC | shown(name)))
            job = await office.services.jobs.get(job_id)
            file = await office.services.files.find(job.input["file_path"].removeprefix("files/"))
            assert (job.owner_service, file.owner_service) == (owner, owner)
            assert (await client.get(f"/task/{job_id}", headers=shown("all"))).status_code == 200
            seen = (await client.get(f"/task/{job_id}", headers=shown("bob"))).status_code == 200
            assert seen is (owner == "billing")
        refused(
            await client.post("/transcribe", files=upload(), headers=ASYNC | shown("infer")), 403, "insufficient_scope"
        )


@IN_MEMORY
async def test_an_upload_is_for_the_jobs_of_its_owner(office: Office) -> None:
    async def owner(client: httpx2.AsyncClient, name: str, **said: str) -> httpx2.Response:
        data = {"purpose": "transcribe", **said}
        return await client.post("/file/upload", files=upload(), data=data, headers=shown(name))

    async with with_keys(office) as client:
        for name, said, wanted in (
            ("ann", {}, "telephony"),
            ("two", {"owner_service": "billing"}, "billing"),
            ("all", {"owner_service": "anyone"}, "anyone"),
            ("all", {}, ""),
        ):
            file = await office.services.files.find((await owner(client, name, **said)).json()["file_id"])
            assert file.owner_service == wanted
        refused(await owner(client, "two"), 422, "validation_error")
        refused(await owner(client, "ann", owner_service="billing"), 403, "owner_forbidden")
        refused(await owner(client, "all", owner_service="a b"), 422, "validation_error")
        refused(await owner(client, "infer"), 403, "insufficient_scope")
        refused(await client.post("/file/upload", files=upload()), 401, "invalid_api_key")

"""Recordings of jobs: uploaded, heard, written down, and gone when that was promised."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from application.stored_files import StoredFiles
from application.sweeper import Paces, Sweeper
from application.webhooks import Webhooks, WebhookSecrets
from domain.errors import (
    AudioRefused,
    AudioTooLong,
    DeadlineExceeded,
    DecodeTimeout,
    DownloadFailed,
    DownloadTooLarge,
    EmptyAudio,
    InsufficientMemory,
    ModelLoadFailed,
    NoAudioTrack,
    UnsupportedCapability,
    UrlNotAllowed,
)
from domain.job_repository import Fail, Settlement
from domain.new_job import DAY_MS
from domain.stored_file import StoredFile
from infrastructure.file_folder import PrivateFolder
from infrastructure.persistence.files import SqlFileRecords
from tests.api.jobs.at_work import at_work
from tests.api.jobs.conftest import IN_MEMORY, Office
from tests.api.problems import refused
from tests.api.sound import SOUND, upload
from tests.api.world import SPEECH, TEXT, in_process, until

URL = "https://example.org/talk.mp3"
NOBODYS = "files/00000000-0000-4000-8000-000000000000"


async def uploaded(office: Office, path: str = "/file/upload") -> dict[str, Any]:
    """A recording that is kept."""
    response = await office.client.post(path, files=upload(), data={"purpose": "transcribe"})
    assert response.status_code == 200, response.text
    return response.json()  # type: ignore[no-any-return]


async def submitted(office: Office, **given: Any) -> str:
    """A new job that hears what `given` names."""
    job = await office.submit(task_type="transcribe", model_profile=SPEECH, input=given)
    return job["id"]  # type: ignore[no-any-return]


async def settled(office: Office, job_id: str) -> dict[str, Any]:
    """The job, once its attempt has ended somehow."""
    job = await office.services.jobs.get(job_id)
    while not (job.status.terminal or job.error_code):
        await asyncio.sleep(0.005)
        job = await office.services.jobs.get(job_id)
    return (await office.get(f"/jobs/{job_id}")).json()  # type: ignore[no-any-return]


def kept(tmp_path: Path) -> list[Path]:
    """The files that wait for jobs."""
    folder = tmp_path / "files"
    return list(folder.iterdir()) if folder.exists() else []


def lasting(answer: dict[str, Any]) -> dict[str, Any]:
    """What does not differ from one answer to the next."""
    passing = ("processing_time", "queue_wait_time", "request_id", "speed", "segments", "model")
    return {name: value for name, value in answer.items() if name not in passing}


async def test_a_long_recording_is_more_work_in_the_line_of_its_owner(office: Office, tmp_path: Path) -> None:
    path = tmp_path / "long.mp3"
    path.write_bytes(bytes(1_920_000))  # two minutes at 128 kbit/s
    file = (await office.services.files.keep(path, "telephony")).token
    batch = [{"input": {"file_path": file}}, {"input": {"file_id": file}, "cost": 1}, {"input": {"file_path": NOBODYS}}]
    defaults = {"owner_service": "telephony", "task_type": "transcribe", "model_profile": SPEECH}
    placed = (await office.post("/jobs/batch", {"defaults": defaults, "jobs": batch})).json()["jobs"]
    assert [(await office.services.jobs.get(one["id"])).cost for one in placed] == [2.0, 1.0, 1.0]


# -- the whole way -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/file/upload", "/api/file/upload"])
@pytest.mark.parametrize("name", ["file_path", "file_id"])
async def test_an_upload_is_heard_by_its_job_and_goes_with_it(
    office: Office, tmp_path: Path, path: str, name: str
) -> None:
    answer = await uploaded(office, path)
    assert answer["file_path"] == f"files/{answer['file_id']}"
    assert (answer["bytes"], answer["filename"], answer["status"]) == (len(SOUND), "../../etc/x.wav", "stored")
    assert (answer["session_id"], answer["task_id"], answer["purpose"]) == (None, None, "transcribe")
    direct = (await office.client.post("/transcribe", files=upload(), data={"language": "de"})).json()
    async with at_work(office):
        job = await settled(office, await submitted(office, **{name: answer[name], "language": "de"}))
    result = job["result"]
    assert (job["status"], job["attempt"], job["usage"]) == ("completed", 1, {"type": "duration", "seconds": 4})
    assert lasting(direct).items() <= result.items()
    assert (result["schema_version"], result["provider"]) == ("ai.transcription_result.v1", "local")
    assert (result["model"], result["text"], result["language"]) == (SPEECH, "Hello world. How are you?", "de")
    assert [part["text"] for part in result["segments"]] == ["Hello world.", "How are you?"]
    assert result["duration_ms"] >= 0
    assert "rendered" not in result
    assert office.world.repository.speech(SPEECH).heard[-1].content == SOUND
    assert len(kept(tmp_path)) == 1
    assert await office.services.files.sweep() == 1
    assert kept(tmp_path) == office.world.uploads == []


@pytest.mark.parametrize(
    ("form", "begins"),
    [("srt", "1\n00:00:00,000 --> "), ("vtt", "WEBVTT"), ("text", "Hello world. How are you?\n"), ("tsv", "start\t")],
)
async def test_another_format_is_rendered_beside_the_result(office: Office, form: str, begins: str) -> None:
    token = (await uploaded(office))["file_path"]
    async with at_work(office):
        job = await settled(office, await submitted(office, file_path=token, response_format=form))
    assert job["result"]["rendered"]["format"] == form
    assert job["result"]["rendered"]["content"].startswith(begins)
    assert len(job["result"]["segments"]) == 2


async def test_verbose_json_is_rendered_as_an_object(office: Office) -> None:
    token = (await uploaded(office))["file_path"]
    async with at_work(office):
        job = await settled(office, await submitted(office, file_path=token, response_format="verbose_json"))
    assert job["result"]["rendered"]["content"]["language"] == "english"


async def test_progress_is_told_in_seconds_with_the_heartbeat(office: Office) -> None:
    gate = office.world.repository.script(SPEECH).speech.between.shut()
    token = (await uploaded(office))["file_path"]
    async with at_work(office):
        job_id = await submitted(office, file_path=token)
        await gate.arrived()
        gate.let_through()
        while (job := await office.services.jobs.get(job_id)).progress is None or not job.progress["current"]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        assert job.progress == {"current": 2.0, "total": 4.0, "unit": "seconds", "percent": 50}
        gate.open()
        assert (await settled(office, job_id))["status"] == "completed"


async def test_a_recording_elsewhere_is_fetched_and_not_kept(office: Office, tmp_path: Path) -> None:
    office.world.fetcher.pages[URL] = SOUND
    async with at_work(office):
        job = await settled(office, await submitted(office, url=URL))
    assert job["result"]["text"] == "Hello world. How are you?"
    assert kept(tmp_path) == office.world.uploads == []


async def test_whisperx_is_the_local_default_where_nothing_else_is_configured(office: Office) -> None:
    token = (await uploaded(office))["file_path"]
    async with at_work(office):
        job = await office.submit(task_type="transcribe", model_profile="whisperx", input={"file_path": token})
        done = await settled(office, job["id"])
    assert (done["result"]["model"], done["result"]["provider"]) == (SPEECH, "local")


# -- what goes wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, "bad_input"),
        ({"url": ""}, "bad_input"),
        ({"url": URL, "file_path": NOBODYS}, "bad_input"),
        ({"file_path": NOBODYS, "file_id": NOBODYS}, "bad_input"),
        ({"file_path": NOBODYS}, "bad_input"),
        ({"file_path": "/etc/passwd"}, "bad_input"),
        ({"file_path": "files/../../etc/passwd"}, "bad_input"),
        ({"file_id": "%2e%2e"}, "bad_input"),
        ({"file_path": 5}, "bad_input"),
        ({"url": URL, "stream": True}, "bad_input"),
        ({"url": URL, "beam_size": 11}, "bad_input"),
        ({"url": URL, "timeout": 0}, "bad_input"),
        ({"url": URL, "language": "xx"}, "bad_input"),
        ({"url": URL, "diarize": True}, "bad_input"),
        ({"url": URL, "model": TEXT}, "bad_input"),
    ],
)
@IN_MEMORY
async def test_an_input_that_makes_no_sense_is_bad_input(office: Office, given: dict[str, Any], code: str) -> None:
    office.world.fetcher.pages[URL] = SOUND
    async with at_work(office):
        job = await settled(office, await submitted(office, **given))
    assert (job["status"], job["error_code"]) == ("failed", code)
    assert job["error_message"]
    assert office.world.repository.count_loads(SPEECH) == 0


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (AudioRefused(), "bad_audio", "failed"),
        (EmptyAudio(), "bad_audio", "failed"),
        (NoAudioTrack(), "bad_audio", "failed"),
        (AudioTooLong(), "bad_audio", "failed"),
        (DecodeTimeout(), "bad_audio", "failed"),
        (UnsupportedCapability("no French here", field="language"), "bad_input", "failed"),
        (DeadlineExceeded(), "timeout", "pending"),
        (InsufficientMemory(), "out_of_memory", "pending"),
        (ModelLoadFailed(), "model_unavailable", "pending"),
        (RuntimeError("a bug"), "internal_error", "pending"),
    ],
)
@IN_MEMORY
async def test_what_goes_wrong_while_listening_has_its_code(
    office: Office, error: Exception, code: str, status: str
) -> None:
    office.world.repository.script(SPEECH).speech.error = error
    token = (await uploaded(office))["file_path"]
    async with at_work(office):
        job = await settled(office, await submitted(office, file_path=token))
    assert (job["status"], job["error_code"]) == (status, code)
    assert "a bug" not in job["error_message"]


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (UrlNotAllowed(), "bad_input", "failed"),
        (DownloadTooLarge(), "bad_audio", "failed"),
        (DownloadFailed("that address answers 404"), "dependency_error", "pending"),
        (DeadlineExceeded("that address is too slow"), "dependency_error", "pending"),
        (b"", "bad_audio", "failed"),
    ],
)
@IN_MEMORY
async def test_a_fetch_that_fails_has_its_code(office: Office, error: Any, code: str, status: str) -> None:
    office.world.fetcher.pages[URL] = error
    async with at_work(office):
        job = await settled(office, await submitted(office, url=URL))
    assert (job["status"], job["error_code"]) == (status, code)
    assert "example.org" not in job["error_message"]


async def test_a_text_model_hears_nothing_and_an_unknown_one_may_come_yet(office: Office) -> None:
    token = (await uploaded(office))["file_path"]
    async with at_work(office):
        job = await office.submit(task_type="transcribe", model_profile=TEXT, input={"file_path": token})
        assert (await settled(office, job["id"]))["error_code"] == "bad_input"


async def test_the_upload_of_somebody_else_is_not_there(office: Office) -> None:
    path = office.world.services.uploads_dir.parent / "theirs"
    path.write_bytes(SOUND)
    file = await office.services.files.keep(path, "billing")
    async with at_work(office):
        job = await settled(office, await submitted(office, file_path=file.token))
    assert (job["error_code"], (await office.services.files.find(file.id)).id) == ("bad_input", file.id)


async def test_an_upload_that_lies_on_another_machine_is_tried_again(office: Office, tmp_path: Path) -> None:
    token = (await uploaded(office))["file_path"]
    kept(tmp_path)[0].unlink()
    async with at_work(office):
        job = await settled(office, await submitted(office, file_path=token))
    assert (job["status"], job["error_code"]) == ("pending", "storage_error")
    assert "INGLE_FILES_DIR" in job["error_message"]


# -- when it goes --------------------------------------------------------------------------------------


async def test_a_cancelled_job_takes_its_upload_along(office: Office, tmp_path: Path) -> None:
    waiting = await submitted(office, file_path=(await uploaded(office))["file_path"])
    await office.post(f"/jobs/{waiting}/cancel")
    assert await office.services.files.sweep() == 1
    gate = office.world.repository.script(SPEECH).speech.between.shut()
    async with at_work(office):
        running = await submitted(office, file_path=(await uploaded(office))["file_path"])
        await gate.arrived()
        assert await office.services.files.sweep() == 0
        assert (await office.post(f"/jobs/{running}/cancel")).status_code == 202
        assert (await settled(office, running))["status"] == "cancelled"
    assert await office.services.files.sweep() == 1
    assert kept(tmp_path) == []


async def test_a_failed_job_can_be_retried_for_a_day_and_then_not(office: Office, tmp_path: Path) -> None:
    speech = office.world.repository.script(SPEECH).speech
    speech.error = AudioRefused()
    job_id = await submitted(office, file_path=(await uploaded(office))["file_path"])
    async with at_work(office):
        assert (await settled(office, job_id))["error_code"] == "bad_audio"
        await office.advance(DAY_MS - 1)
        assert await office.services.files.sweep() == 0
        await office.post(f"/jobs/{job_id}/retry")
        assert (await settled(office, job_id))["error_code"] == "bad_audio"
        await office.advance(DAY_MS)
        assert await office.services.files.sweep() == 1
        assert kept(tmp_path) == []
        await office.post(f"/jobs/{job_id}/retry")
        job = await settled(office, job_id)
    assert (job["status"], job["error_code"]) == ("failed", "bad_input")
    assert "upload it again" in job["error_message"]


async def test_an_upload_that_no_job_wants_goes_after_a_day(office: Office, tmp_path: Path) -> None:
    answer = await uploaded(office)
    assert answer["expires_at"] == "2027-01-16T08:00:00.000Z"
    await office.advance(DAY_MS)
    assert await office.services.files.sweep() == 1
    assert kept(tmp_path) == []


async def test_the_chores_of_the_server_remove_what_is_due(kept_office: Office, tmp_path: Path) -> None:
    office = kept_office
    job_id = await submitted(office, file_path=(await uploaded(office))["file_path"])
    stray = tmp_path / "files" / "00000000-0000-4000-8000-000000000000"
    stray.touch()
    os.utime(stray, (0, 0))
    jobs = office.services
    webhooks = Webhooks(jobs.jobs, jobs.outbox, office.receiver, WebhookSecrets({}), jobs.clock)
    never = {"reap": 1e6, "promote": 1e6, "webhooks": 1e6, "prune": 1e6}
    sweeper = Sweeper(jobs.jobs, jobs.statistics, webhooks, jobs.files, Paces(files=0.01, strays=0.01, **never))
    sweeping = asyncio.create_task(sweeper.run())
    await until(lambda: len(kept(tmp_path)) == 1)
    await office.post(f"/jobs/{job_id}/cancel")
    await until(lambda: not kept(tmp_path))
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)


# -- uploading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"purpose": "ask"}, {"purpose": ""}])
@IN_MEMORY
async def test_other_purposes_are_not_offered_yet(office: Office, tmp_path: Path, fields: dict[str, str]) -> None:
    for how in ({"data": fields}, {"params": fields}):
        response = await office.client.post("/file/upload", files=upload(), **how)  # type: ignore[arg-type]
        assert "purpose=transcribe" in refused(response, 501, "not_implemented")["detail"]
    assert kept(tmp_path) == office.world.uploads == []


@IN_MEMORY
async def test_the_purpose_may_stand_in_the_address_and_the_name_in_the_form(office: Office) -> None:
    response = await office.client.post(
        "/file/upload", params={"purpose": "transcribe"}, files=upload(), data={"filename": "talk\n.mp3"}
    )
    assert (response.status_code, response.json()["filename"]) == (200, "talk.mp3")
    twice = await office.client.post(
        "/file/upload", params={"purpose": "transcribe"}, files=upload(), data={"purpose": "ask"}
    )
    refused(twice, 422, "validation_error")


@IN_MEMORY
async def test_what_is_no_upload_is_refused_and_leaves_nothing(office: Office, tmp_path: Path) -> None:
    said = {"purpose": "transcribe"}
    client = office.client
    refused(await client.post("/file/upload", files=upload(content=b""), data=said), 422, "empty_audio")
    refused(await client.post("/file/upload", files=upload("other"), data=said), 422, "validation_error")
    refused(await client.post("/file/upload", json=said), 415, "unsupported_media_type")
    broken = {"content-type": "multipart/form-data; boundary=x"}
    refused(await client.post("/file/upload", content=b"nonsense", headers=broken), 400, "invalid_body")
    large = upload(content=bytes(office.world.services.limits.upload_bytes + 1))
    refused(await client.post("/api/file/upload", files=large, data=said), 413, "payload_too_large")
    assert kept(tmp_path) == office.world.uploads == []


@IN_MEMORY
async def test_a_full_disk_is_507_before_anything_is_read(office: Office, tmp_path: Path) -> None:
    folder = PrivateFolder(tmp_path / "files", min_free_bytes=1 << 62)
    services = replace(office.services, files=StoredFiles(SqlFileRecords(office.kept.database), folder))
    async with in_process(office.world.app(jobs=services)) as client:
        response = await client.post("/file/upload", files=upload(), data={"purpose": "transcribe"})
        assert "stay free" in refused(response, 507, "insufficient_storage")["detail"]
        later = await client.post("/transcribe", files=upload(), headers={"prefer": "respond-async"})
        refused(later, 507, "insufficient_storage")
    assert kept(tmp_path) == office.world.uploads == []


# -- for workers elsewhere -----------------------------------------------------------------------------


async def audio(office: Office, job_id: str, token: str | None) -> httpx2.Response:
    headers = {} if token is None else {"x-lease-token": token}
    return await office.client.get(f"/api/v1/jobs/{job_id}/audio", headers=headers)


async def test_the_holder_of_a_job_may_read_its_recording(office: Office) -> None:
    job_id = await submitted(office, file_path=(await uploaded(office))["file_path"])
    refused(await audio(office, job_id, "0" * 32), 409, "lease_lost")
    [job] = await office.claim()
    response = await audio(office, job_id, job["lease_token"])
    assert (response.status_code, response.content) == (200, SOUND)
    assert response.headers["content-type"] == "application/octet-stream"
    refused(await audio(office, job_id, None), 409, "lease_required")
    assert refused(await audio(office, job_id, "0" * 32), 409, "lease_lost")["job"]["status"] == "running"
    await office.post(f"/jobs/{job_id}/complete", {"lease_token": job["lease_token"], "result": {}})
    refused(await audio(office, job_id, job["lease_token"]), 409, "lease_lost")
    refused(await audio(office, "nonsense", job["lease_token"]), 404, "not_found")


@pytest.mark.parametrize(
    ("task_type", "given"),
    [
        ("transcribe_url", {"url": URL}),
        ("llm_chat", {"user": "hi", "file_path": NOBODYS}),
        ("transcribe", {"file_path": NOBODYS}),
        ("transcribe", {"file_path": 5}),
    ],
)
async def test_a_job_without_an_upload_has_no_audio(office: Office, task_type: str, given: dict[str, Any]) -> None:
    job_id, token = await office.claimed(task_type=task_type, model_profile=SPEECH, input=given)
    refused(await audio(office, job_id, token), 404, "file_not_found")


async def test_a_worker_elsewhere_fails_a_job_and_its_upload_stays(office: Office) -> None:
    answer = await uploaded(office)
    job_id = await submitted(office, file_path=answer["file_path"])
    [job] = await office.claim()
    await office.services.jobs.settle(Settlement(job_id, Fail("bad_response"), job["lease_token"]))
    assert await office.services.files.sweep() == 0
    found: StoredFile = await office.services.files.find(answer["file_id"])
    assert found.token == answer["file_path"]


async def test_the_status_of_the_queue_counts_jobs_too(office: Office) -> None:
    for _ in range(3):
        await office.submit()
    await office.claim(limit=1)
    assert (await office.client.get("/queue/status")).json()["jobs"] == {"pending": 2, "running": 1}

"""Every parameter of speech, as the input of a job: the same request in the domain as over HTTP, the same refusals."""

from dataclasses import replace
from typing import Any

import httpx2

from api.jobs.bounds import beyond
from domain.transcription import TranscriptionRequest
from tests.api.jobs.at_work import at_work
from tests.api.jobs.conftest import IN_MEMORY, Office
from tests.api.jobs.test_recordings import URL, settled, submitted
from tests.api.sound import SOUND, upload
from tests.api.test_speech_options import ACCEPTED, EDGES, REFUSED, separated
from tests.api.world import SPEECH, World

TABLE = [*(fields for fields, _ in ACCEPTED), *EDGES]


def without_its_sender(request: TranscriptionRequest) -> TranscriptionRequest:
    """What was wished for, but not whose turn it takes and how long it may."""
    return replace(request, request_id="", client="", interactive=True, timeout_seconds=None)


@IN_MEMORY
async def test_a_job_hears_as_the_same_fields_do_over_http(office: Office) -> None:
    office.world.fetcher.pages[URL] = SOUND
    over_http = []
    for fields in TABLE:
        response = await office.client.post("/transcribe/url", json={"url": URL, **fields})
        assert response.status_code == 200, (fields, response.text)
        over_http.append(office.world.repository.speech(SPEECH).heard[-1].request)
    async with at_work(office):
        jobs = [await submitted(office, url=URL, **fields) for fields in TABLE]
        ends = [await settled(office, job_id) for job_id in jobs]
    assert {end["status"] for end in ends} == {"completed"}, [end for end in ends if end["status"] != "completed"]
    heard = {one.request.request_id: one.request for one in office.world.repository.speech(SPEECH).heard}
    for fields, direct, job_id in zip(TABLE, over_http, jobs, strict=True):
        request = heard[job_id]
        assert without_its_sender(request) == without_its_sender(direct), fields
        assert (request.client, request.interactive) == ("job:telephony", False)
        longest = beyond(await office.services.jobs.get(job_id))
        assert request.timeout_seconds == min(fields.get("timeout", longest), longest)


@IN_MEMORY
async def test_a_job_refuses_by_name_what_http_refuses_and_fetches_nothing_for_it(office: Office) -> None:
    office.world.fetcher.pages[URL] = SOUND
    async with at_work(office):
        jobs = [await submitted(office, url=URL, **fields) for fields, _ in REFUSED]
        ends = [await settled(office, job_id) for job_id in jobs]
    for (fields, _), end in zip(REFUSED, ends, strict=True):
        assert (end["status"], end["error_code"]) == ("failed", "bad_input"), fields
        assert next(iter(fields)) in end["error_message"], fields
    assert office.world.fetcher.targets == []
    assert office.world.repository.loads == []


async def test_what_is_at_its_limit_may_come_as_a_form_and_as_a_query_too(
    world: World, client: httpx2.AsyncClient
) -> None:
    world.fetcher.pages[URL] = SOUND
    for fields in EDGES:
        ways: list[tuple[str, dict[str, Any]]] = [
            ("/transcribe/url", {"json": {"url": URL, **fields}}),
            ("/transcribe", {"files": upload(), "data": separated(fields)}),
            ("/transcribe", {"files": upload(), "params": separated(fields)}),
        ]
        for path, arguments in ways:
            response = await client.post(path, **arguments)
            assert response.status_code == 200, (fields, response.text)
        as_json, *others = [replace(one.request, request_id="") for one in world.repository.speech(SPEECH).heard[-3:]]
        assert others == [as_json, as_json], fields

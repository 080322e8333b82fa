"""POST /transcribe/batch: several recordings at once."""

import asyncio
from typing import Any

import httpx2
import pytest

from api.services import Limits
from domain.errors import Overloaded
from tests.api.sound import SOUND
from tests.api.world import SPEECH, World, in_process


def files(*contents: bytes, name: str = "talk.wav") -> list[Any]:
    return [("files", (f"{number}-{name}", content, "audio/wav")) for number, content in enumerate(contents)]


async def test_every_file_has_its_entry_in_order(world: World, client: httpx2.AsyncClient) -> None:
    response = await client.post("/transcribe/batch", files=files(SOUND, b"", SOUND), data={"language": "en"})
    answer = response.json()
    assert response.status_code == 200
    assert answer.pop("total_processing_time") >= 0
    assert answer.pop("request_id") == response.headers["x-request-id"]
    first, second, third = answer.pop("results")
    assert answer == {"total_files": 3, "succeeded": 2, "failed": 1}
    assert second == {
        "filename": "1-talk.wav",
        "error": "the upload is empty",
        "code": "empty_audio",
        "status": 422,
    }
    assert [first["filename"], third["filename"]] == ["0-talk.wav", "2-talk.wav"]
    assert first["text"] == third["text"] == "Hello world. How are you?"
    assert (first["language"], first["duration"], first["segments"]) == ("en", 4.0, None)
    assert world.uploads == []


async def test_all_files_are_with_the_model_at_once(world: World, client: httpx2.AsyncClient) -> None:
    gate = world.repository.script(SPEECH).speech.before_first.shut()
    asking = asyncio.create_task(client.post("/transcribe/batch", files=files(SOUND, SOUND, SOUND)))
    await gate.arrived(3)
    gate.open()
    assert (await asking).json()["succeeded"] == 3


async def test_formats_come_beside_the_figures(client: httpx2.AsyncClient) -> None:
    response = await client.post("/transcribe/batch", files=files(SOUND), data={"response_format": "srt"})
    [entry] = response.json()["results"]
    assert entry["rendered"]["format"] == "srt"
    assert entry["rendered"]["content"].startswith("1\n00:00:00,000 --> ")
    response = await client.post("/transcribe/batch", files=files(SOUND), data={"response_format": "verbose_json"})
    [entry] = response.json()["results"]
    assert (entry["language"], entry["words"]) == ("english", [])


async def test_from_1_to_32_files_and_no_more_bytes_than_an_upload(world: World, client: httpx2.AsyncClient) -> None:
    assert (await client.post("/transcribe/batch", files=files(*[SOUND] * 32))).json()["total_files"] == 32
    for arguments in ({"files": files(*[SOUND] * 33)}, {"files": [("file", ("a.wav", SOUND))]}):
        response = await client.post("/transcribe/batch", **arguments)
        assert (response.status_code, response.json()["code"]) == (422, "validation_error")
    response = await client.post("/transcribe/batch", content=SOUND, headers={"content-type": "audio/wav"})
    assert response.status_code == 415
    async with in_process(world.app(limits=Limits(upload_bytes=2 * len(SOUND)))) as small:
        assert (await small.post("/transcribe/batch", files=files(SOUND, SOUND, SOUND))).status_code == 413


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"stream": "true"}, 422, "unsupported_parameter"),
        ({"beam_size": "0"}, 422, "validation_error"),
        ({"model": "ear:bass"}, 404, "model_not_found"),
    ],
)
async def test_what_is_wrong_with_all_is_told_once(
    client: httpx2.AsyncClient, fields: dict[str, str], status: int, code: str
) -> None:
    response = await client.post("/transcribe/batch", files=files(SOUND, SOUND), data=fields)
    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_a_full_queue_refuses_the_lot(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(SPEECH).speech.error = Overloaded()
    response = await client.post("/transcribe/batch", files=files(SOUND, SOUND))
    assert (response.status_code, response.json()["code"]) == (503, "server_overloaded")
    assert "retry-after" in response.headers


async def test_names_of_files_are_echoed_and_used_for_nothing_else(world: World, client: httpx2.AsyncClient) -> None:
    response = await client.post("/transcribe/batch", files=files(SOUND, name="../../etc/" + "x" * 300))
    [entry] = response.json()["results"]
    assert entry["filename"].startswith("0-../../etc/xxx")
    assert len(entry["filename"]) == 255
    assert world.repository.speech(SPEECH).heard[-1].audio.name == "input.bin"

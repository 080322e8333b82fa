"""POST /transcribe/url: the same answers as an upload, and what becomes of addresses that lead nowhere good."""

import asyncio
from typing import Any

import httpx2
import pytest

from api.services import Limits
from domain.errors import DeadlineExceeded, DownloadFailed, DownloadTooLarge, IngleError, Overloaded
from tests.api.sound import SOUND, upload
from tests.api.test_disconnects import hang_up
from tests.api.test_transcribe_streams import events
from tests.api.world import SPEECH, Served, World, in_process, until

URL = "https://example.org/talk.mp3?part=1"


def lasting(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in ("processing_time", "request_id", "speed")}


async def test_an_address_gives_what_its_file_gives(world: World, client: httpx2.AsyncClient) -> None:
    world.fetcher.pages[URL] = SOUND
    uploaded = (await client.post("/transcribe", files=upload(), data={"language": "en"})).json()
    in_json = (await client.post("/transcribe/url", json={"url": URL, "language": "en"})).json()
    by_query = (await client.post("/transcribe/url", params={"url": URL, "language": "en"})).json()
    assert lasting(uploaded) == lasting(in_json) == lasting(by_query)
    assert world.repository.speech(SPEECH).heard[-1].content == SOUND
    assert [file.name for file in world.fetcher.targets] == ["input.bin", "input.bin"]
    assert world.uploads == []


async def test_an_address_is_streamed_and_rendered_too(world: World, client: httpx2.AsyncClient) -> None:
    world.fetcher.pages[URL] = SOUND
    response = await client.post("/transcribe/url", json={"url": URL, "response_format": "srt"})
    assert response.headers["content-type"] == "application/x-subrip"
    told = events(await client.post("/transcribe/url", json={"url": URL, "stream": True}))
    assert [told[0]["type"], told[-1]["type"]] == ["queued", "done"]
    assert world.uploads == []


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (None, 400, "url_not_allowed"),
        (DownloadFailed("that address answers 404", upstream_status=404), 502, "download_failed"),
        (DownloadTooLarge(), 413, "payload_too_large"),
        (DeadlineExceeded(), 504, "deadline_exceeded"),
        (Overloaded(), 503, "server_overloaded"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_fetch_that_fails_has_its_real_status(
    world: World, client: httpx2.AsyncClient, error: IngleError | None, status: int, code: str, stream: bool
) -> None:
    if error is not None:
        world.fetcher.pages[URL] = error
    response = await client.post("/transcribe/url", json={"url": URL, "stream": stream})
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.json().get("upstream_status") == (404 if code == "download_failed" else None)
    assert "example.org" not in response.text
    assert world.uploads == []


async def test_an_empty_file_and_a_missing_address_are_422(world: World, client: httpx2.AsyncClient) -> None:
    world.fetcher.pages[URL] = b""
    response = await client.post("/transcribe/url", json={"url": URL})
    assert (response.status_code, response.json()["code"]) == (422, "empty_audio")
    nothing: list[dict[str, Any]] = [{}, {"json": {}}, {"params": {"url": ""}}]
    for arguments in nothing:
        response = await client.post("/transcribe/url", **arguments)
        assert (response.status_code, response.json()["code"]) == (422, "validation_error")
    response = await client.post("/transcribe/url", files=upload())
    assert response.status_code == 415
    response = await client.post("/transcribe/url", content=b"{", headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_json")


async def test_a_file_elsewhere_may_be_as_large_as_an_upload(world: World) -> None:
    world.fetcher.pages[URL] = SOUND
    async with in_process(world.app(limits=Limits(upload_bytes=len(SOUND) - 1))) as client:
        response = await client.post("/transcribe/url", json={"url": URL})
    assert response.status_code == 413


async def test_leaving_during_the_fetch_ends_it_and_leaves_no_file(world: World, server: Served) -> None:
    world.fetcher.pages[URL] = SOUND
    gate = world.fetcher.gate.shut()
    _, writer = await server.connect()
    writer.write(f"POST /transcribe/url?url={URL} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
    await asyncio.wait_for(gate.arrived(), 5)
    assert world.uploads != []
    await hang_up(writer)
    await until(lambda: gate.waiting == 0 and not world.fetcher.targets[0].parent.exists())
    assert world.repository.loads == []

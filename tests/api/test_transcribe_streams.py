"""POST /transcribe as a stream of events."""

import html
from typing import Any

import httpx2
import orjson
import srt  # type: ignore[import-untyped]
import webvtt

from api.services import Limits
from domain.errors import GenerationFailed
from tests.api.sound import upload
from tests.api.world import SPEECH, World, serving
from tests.fakes.models import segment


def events(response: httpx2.Response) -> list[dict[str, Any]]:
    """The events of a stream; the name of each is the type of its data."""
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *frames, rest = response.text.split("\n\n")
    assert rest == ""
    parsed = []
    for frame in frames:
        name, data = frame.split("\n")
        parsed.append(orjson.loads(data.removeprefix("data: ")))
        assert name == f"event: {parsed[-1]['type']}"
    return parsed


async def test_a_stream_tells_everything_in_order(client: httpx2.AsyncClient) -> None:
    response = await client.post("/transcribe", files=upload(), data={"stream": "true"})
    whole = (await client.post("/transcribe", files=upload())).json()
    told = events(response)
    assert [event["type"] for event in told] == [
        "queued",
        "progress",
        "language",
        "segment",
        "segment",
        "progress",
        "done",
    ]
    assert told[0] == {
        "type": "queued",
        "request_id": response.headers["x-request-id"],
        "position": 0,
        "eta_seconds": None,
    }
    assert "".join(event["segment"]["text"] for event in told if event["type"] == "segment").strip() == whole["text"]
    assert told[5]["percent"] == 100
    assert told[5]["processed_seconds"] == told[5]["total_seconds"] == 4.0
    assert told[2] == {"type": "language", "language": "en", "probability": 0.99}
    volatile = ("processing_time", "request_id", "speed")
    assert {k: v for k, v in told[-1]["body"].items() if k not in volatile} == {
        k: v for k, v in whole.items() if k not in volatile
    }


async def test_a_stream_ends_with_the_format_that_was_asked_for(client: httpx2.AsyncClient) -> None:
    fields = {"stream": "true", "response_format": "srt", "language": "en"}
    told = events(await client.post("/transcribe", files=upload(), data=fields))
    assert told[2] == {"type": "language", "language": "en", "probability": 1.0}
    assert told[-1]["body"]["format"] == "srt"
    assert told[-1]["body"]["content"].startswith("1\n00:00:00,000 --> ")


async def test_a_failure_in_a_stream_is_its_last_event(world: World, client: httpx2.AsyncClient) -> None:
    script = world.repository.script(SPEECH).speech
    script.error, script.error_after = GenerationFailed("the device has failed"), 1
    told = events(await client.post("/transcribe", files=upload(), data={"stream": "true"}))
    assert told[-1]["type"] == "error"
    assert (told[-1]["status"], told[-1]["code"]) == (500, "generation_failed")
    assert told[-1]["detail"] == "the device has failed"
    assert "done" not in [event["type"] for event in told]


async def test_a_stream_in_the_queue_pings_until_there_is_something_to_say(world: World) -> None:
    gate = world.repository.script(SPEECH).speech.before_first.shut()
    async with (
        serving(world.app(limits=Limits(ping_seconds=0.01))) as server,
        server.client.stream("POST", "/transcribe", files=upload(), data={"stream": "true"}) as response,
    ):
        lines = response.aiter_lines()
        assert [await anext(lines), await anext(lines)] == [": ping", ""]
        gate.open()
        rest = [line async for line in lines]
    assert rest[-3].startswith("event: done")


async def test_real_readers_read_the_subtitles_whatever_is_said(world: World, client: httpx2.AsyncClient) -> None:
    said = " <b>one</b> --> two\n\n00:00:09.000 & [00:01.00]\tthree"
    world.repository.script(SPEECH).speech.segments = [segment(0, said), segment(1, " four")]
    fields = {"max_line_width": "200"}
    srt_text = (await client.post("/transcribe", files=upload(), data={**fields, "response_format": "srt"})).text
    vtt_text = (await client.post("/transcribe", files=upload(), data={**fields, "response_format": "vtt"})).text
    tsv_text = (await client.post("/transcribe", files=upload(), data={"response_format": "tsv"})).text
    shown = "<b>one</b> → two 00:00:09.000 & [00:01.00] three"
    assert [cue.content for cue in srt.parse(srt_text)] == [shown, "four"]
    assert [html.unescape(cue.raw_text) for cue in webvtt.from_string(vtt_text).captions] == [shown, "four"]
    assert [line.split("\t")[2] for line in tsv_text.splitlines()] == ["text", shown, "four"]

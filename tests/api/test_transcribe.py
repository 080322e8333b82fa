"""POST /transcribe: what may be sent, what comes back, in one piece and as a stream."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from api.services import Limits
from domain.caveat import Caveat
from domain.errors import AudioRefused, AudioTooLong, DeadlineExceeded, DecodeTimeout, NoAudioTrack
from domain.transcription import Word
from tests.api.sound import SOUND, upload
from tests.api.world import SPEECH, TEXT, World, in_process
from tests.fakes.models import Heard, segment


def heard(world: World) -> Heard:
    return world.repository.speech(SPEECH).heard[-1]


@pytest.mark.parametrize("field", ["file", "audio_file", "audio"])
async def test_a_file_comes_in_a_form_under_one_of_three_names(
    world: World, client: httpx2.AsyncClient, field: str
) -> None:
    response = await client.post("/transcribe", files=upload(field))
    assert response.status_code == 200
    assert response.json()["text"] == "Hello world. How are you?"
    assert heard(world).content == SOUND
    assert world.uploads == []


@pytest.mark.parametrize("media_type", ["audio/wav", "video/mp4", "application/octet-stream", "Audio/MPEG; x=y"])
async def test_a_file_may_be_the_whole_body(world: World, client: httpx2.AsyncClient, media_type: str) -> None:
    response = await client.post("/transcribe?language=de", content=SOUND, headers={"content-type": media_type})
    assert response.status_code == 200
    assert heard(world).content == SOUND
    assert heard(world).request.language == "de"


async def test_the_file_is_private_and_has_a_name_of_ours(world: World, client: httpx2.AsyncClient) -> None:
    gate = world.repository.script(SPEECH).speech.before_first.shut()
    waiting = asyncio.create_task(client.post("/transcribe", files=upload()))
    await gate.arrived()
    audio = heard(world).audio
    assert audio.name == "input.bin"
    assert audio.parent.parent == world.services.uploads_dir
    assert audio.stat().st_mode & 0o777 == 0o600
    assert audio.parent.stat().st_mode & 0o777 == 0o700
    gate.open()
    await waiting
    assert not audio.exists()


async def test_the_json_answer_has_the_contract_of_its_forerunner_and_more(
    world: World, client: httpx2.AsyncClient
) -> None:
    world.repository.script(SPEECH).speech.warnings = (Caveat("audio_truncated", "the end is missing"),)
    response = await client.post("/transcribe", files=upload())
    answer = response.json()
    assert answer.pop("processing_time") >= 0
    assert answer.pop("speed") is None or answer
    assert answer.pop("request_id") == response.headers["x-request-id"]
    assert answer == {
        "text": "Hello world. How are you?",
        "language": "en",
        "duration": 4.0,
        "segments": None,
        "queue_wait_time": 0.0,
        "language_probability": 0.99,
        "duration_after_vad": 4.0,
        "task": "transcribe",
        "model": SPEECH,
        "device": "cpu",
        "compute_type": "none",
        "warnings": [{"code": "audio_truncated", "message": "the end is missing"}],
        "usage": {"type": "duration", "seconds": 4},
    }


async def test_segments_and_words_come_when_they_are_asked_for(world: World, client: httpx2.AsyncClient) -> None:
    words = (Word(" Hello", 0.001, 0.519, 0.91), Word(" you", 0.52, 1.0, 0.8))
    world.repository.script(SPEECH).speech.segments = (replace(segment(0, " Hello you"), words=words),)
    [plain] = (await client.post("/transcribe", files=upload(), data={"include_segments": "true"})).json()["segments"]
    assert (plain["text"], plain["start"], plain["end"]) == ("Hello you", 0.0, 2.0)
    assert "words" not in plain
    [full] = (await client.post("/transcribe?word_timestamps=1", files=upload())).json()["segments"]
    assert full["words"] == [
        {"word": "Hello", "start": 0.0, "end": 0.52, "probability": 0.91},
        {"word": "you", "start": 0.52, "end": 1.0, "probability": 0.8},
    ]
    assert heard(world).request.word_timestamps is True


async def test_silence_is_an_answer_too(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(SPEECH).speech.segments = ()
    answer = (await client.post("/transcribe", files=upload(), data={"include_segments": "true"})).json()
    assert (answer["text"], answer["language"], answer["language_probability"], answer["segments"]) == ("", None, 0, [])
    bodies = {}
    for form in ("text", "srt", "tsv", "lrc", "vtt"):
        response = await client.post("/transcribe", files=upload(), data={"response_format": form})
        assert response.status_code == 200
        assert response.headers["x-language"] == ""
        bodies[form] = response.text
    assert bodies == {"text": "", "srt": "", "tsv": "", "lrc": "", "vtt": "WEBVTT\n"}
    answer = (await client.post("/transcribe", files=upload(), data={"response_format": "verbose_json"})).json()
    assert (answer["language"], answer["segments"], answer["words"]) == (None, [], [])


@pytest.mark.parametrize(
    ("form", "media_type", "body"),
    [
        ("text", "text/plain; charset=utf-8", "Hello world. How are you?\n"),
        ("srt", "application/x-subrip", "1\n00:00:00,000 --> 00:00:02,000\nHello world.\n"),
        ("vtt", "text/vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nHello world.\n"),
        ("tsv", "text/tab-separated-values", "start\tend\ttext\n0\t2000\tHello world.\n"),
        ("lrc", "text/plain; charset=utf-8", "[00:00.00]Hello world.\n"),
    ],
)
async def test_a_transcript_comes_in_every_format(
    client: httpx2.AsyncClient, form: str, media_type: str, body: str
) -> None:
    response = await client.post("/transcribe", files=upload(), data={"response_format": form})
    assert response.headers["content-type"] == media_type
    assert response.text.startswith(body)
    assert response.headers["x-language"] == "en"
    assert response.headers["x-audio-duration"] == "4.00"
    assert float(response.headers["x-processing-time"]) >= 0
    assert response.headers["x-warnings"] == ""


async def test_verbose_json_has_the_languages_name_and_both_lists(world: World, client: httpx2.AsyncClient) -> None:
    answer = (await client.post("/transcribe", files=upload(), data={"response_format": "verbose_json"})).json()
    assert (answer["language"], answer["task"], answer["duration"]) == ("english", "transcribe", 4.0)
    assert [one["text"] for one in answer["segments"]] == ["Hello world.", "How are you?"]
    assert answer["words"] == []
    assert answer["model"] == SPEECH
    assert heard(world).request.word_timestamps is True


@pytest.mark.parametrize("content", [b"", b"\x00"])
async def test_an_empty_upload_is_422(world: World, client: httpx2.AsyncClient, content: bytes) -> None:
    if content:
        world.repository.script(SPEECH).speech.error = AudioRefused()
    in_every_way: list[dict[str, Any]] = [
        {"files": upload(content=content)},
        {"content": content, "headers": {"content-type": "audio/wav"}},
        {"files": upload(content=content), "data": {"stream": "true"}},
    ]
    for arguments in in_every_way:
        response = await client.post("/transcribe", **arguments)
        expected = (415, "invalid_audio") if content else (422, "empty_audio")
        assert (response.status_code, response.json()["code"]) == expected


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (AudioRefused(), 415),
        (NoAudioTrack(), 422),
        (AudioTooLong(), 413),
        (DecodeTimeout(), 422),
        (DeadlineExceeded(), 504),
    ],
)
@pytest.mark.parametrize("stream", ["true", "false"])
async def test_what_the_model_refuses_has_its_real_status_in_streams_too(
    world: World, client: httpx2.AsyncClient, error: Any, status: int, stream: str
) -> None:
    world.repository.script(SPEECH).speech.error = error
    response = await client.post("/transcribe", files=upload(), data={"stream": stream})
    assert (response.status_code, response.json()["code"]) == (status, error.code)
    assert response.headers["content-type"] == "application/problem+json"
    assert world.uploads == []


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_a_model_that_is_unknown_or_for_text_is_refused(client: httpx2.AsyncClient, stream: str) -> None:
    for model, status, code in (("ear:bass", 404, "model_not_found"), (TEXT, 422, "unsupported_capability")):
        response = await client.post("/transcribe", files=upload(), data={"model": model, "stream": stream})
        assert (response.status_code, response.json()["code"]) == (status, code)
    response = await client.post("/transcribe", files=upload(), data={"model": "Whisper-1", "stream": "false"})
    assert response.json()["model"] == "Whisper-1"


async def test_background_transcription_is_not_offered_where_no_jobs_are_kept(client: httpx2.AsyncClient) -> None:
    response = await client.post("/transcribe", files=upload(), headers={"prefer": "wait=5, respond-async"})
    assert (response.status_code, response.json()["code"]) == (501, "not_implemented")


async def test_the_deadline_of_the_operator_binds(world: World) -> None:
    async with in_process(world.app(limits=Limits(transcription_seconds=60.0))) as client:
        await client.post("/transcribe", files=upload(), data={"timeout": "5000"})
    assert heard(world).request.timeout_seconds == 60.0

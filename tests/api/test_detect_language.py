"""POST /detect-language and POST /asr."""

import httpx2
import pytest

from domain.errors import AudioRefused
from domain.listening import VadOptions
from domain.transcription import DetectionRequest, SpeechTask
from tests.api.sound import SOUND, upload
from tests.api.world import SPEECH, TEXT, World


async def test_the_language_of_a_recording_is_told(world: World, client: httpx2.AsyncClient) -> None:
    response = await client.post("/detect-language", files=upload())
    assert response.json() == {
        "language": "en",
        "language_code": "en",
        "detected_language": "english",
        "confidence": 0.99,
        "candidates": [{"language": "en", "probability": 0.99}],
        "windows": 1,
        "duration": 4.0,
        "model": SPEECH,
        "request_id": response.headers["x-request-id"],
    }
    assert world.repository.speech(SPEECH).heard == []
    assert world.uploads == []


async def test_silence_has_no_language(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(SPEECH).speech.segments = ()
    answer = (await client.post("/detect-language", files=upload("audio"))).json()
    assert [answer[name] for name in ("language", "language_code", "detected_language")] == [None] * 3
    assert (answer["confidence"], answer["candidates"]) == (0, [])


async def test_detection_takes_its_options_by_form_and_query(world: World, client: httpx2.AsyncClient) -> None:
    response = await client.post(
        "/detect-language?windows=3&vad_threshold=0.3", files=upload(), data={"languages": "en,German", "timeout": "9"}
    )
    assert response.status_code == 200
    [asked] = world.repository.speech(SPEECH).asked
    assert asked == DetectionRequest(
        windows=3,
        languages=("en", "de"),
        vad=VadOptions(threshold=0.3),
        timeout_seconds=9.0,
        client="127.0.0.1",
        request_id=response.headers["x-request-id"],
    )
    response = await client.post(
        "/detect-language?windows=2", content=SOUND, headers={"content-type": "application/octet-stream"}
    )
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"windows": "0"}, 422, "validation_error"),
        ({"windows": "11"}, 422, "validation_error"),
        ({"languages": "klingon"}, 422, "validation_error"),
        ({"vad_threshold": "1"}, 422, "validation_error"),
        ({"channel": "split"}, 422, "unsupported_parameter"),
        ({"clip_timestamps": "0,5"}, 422, "unsupported_parameter"),
        ({"model": "ear:bass"}, 404, "model_not_found"),
        ({"model": TEXT}, 422, "unsupported_capability"),
    ],
)
async def test_a_detection_that_makes_no_sense_is_refused(
    client: httpx2.AsyncClient, fields: dict[str, str], status: int, code: str
) -> None:
    response = await client.post("/detect-language", files=upload(), data=fields)
    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_what_is_no_recording_has_no_language(world: World, client: httpx2.AsyncClient) -> None:
    assert (await client.post("/detect-language", files=upload(content=b""))).json()["code"] == "empty_audio"
    world.repository.script(SPEECH).speech.error = AudioRefused()
    response = await client.post("/detect-language", files=upload())
    assert (response.status_code, response.json()["code"]) == (415, "invalid_audio")


# -- /asr ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "media_type", "body"),
    [
        (None, "text/plain; charset=utf-8", "Hello world. How are you?\n"),
        ("txt", "text/plain; charset=utf-8", "Hello world. How are you?\n"),
        ("srt", "application/x-subrip", "1\n00:00:00,000 --> 00:00:02,000\nHello world.\n"),
        ("vtt", "text/vtt", "WEBVTT\n\n00:00:00.000 --> "),
        ("tsv", "text/tab-separated-values", "start\tend\ttext\n0\t2000\tHello world.\n"),
    ],
)
async def test_a_client_of_the_web_service_gets_its_formats(
    client: httpx2.AsyncClient, output: str | None, media_type: str, body: str
) -> None:
    params = {"encode": "true", "task": "transcribe", **({"output": output} if output else {})}
    response = await client.post("/asr", params=params, files={"audio_file": ("to;o ü.mp3", SOUND)})
    assert response.headers["content-type"] == media_type
    assert response.text.startswith(body)
    assert response.headers["asr-engine"] == "ingle"
    assert response.headers["content-disposition"] == f'attachment; filename="to%3Bo %C3%BC.mp3.{output or "txt"}"'


async def test_a_client_of_the_web_service_gets_its_json(world: World, client: httpx2.AsyncClient) -> None:
    params = {"output": "json", "word_timestamps": "true", "task": "translate", "language": "de"}
    params |= {"initial_prompt": "Ana", "vad_filter": "false"}
    response = await client.post("/asr", params=params, files={"audio_file": ("a.wav", SOUND)})
    answer = response.json()
    assert set(answer) == {"text", "segments", "language"}
    assert answer["language"] == "de"
    assert answer["segments"][0]["words"] == []
    assert {"id", "seek", "start", "end", "text", "tokens"} <= set(answer["segments"][0])
    request = world.repository.speech(SPEECH).heard[-1].request
    assert (request.task, request.language, request.prompt) == (SpeechTask.TRANSLATE, "de", "Ana")
    assert (request.word_timestamps, request.vad.enabled) == (True, False)


async def test_what_the_web_service_would_not_do_is_refused(world: World, client: httpx2.AsyncClient) -> None:
    for params, name in (({"output": "docx"}, "output"), ({"stream": "true"}, "stream"), ({"task": "x"}, "task")):
        response = await client.post("/asr", params=params, files={"audio_file": ("a.wav", SOUND)})
        assert response.status_code == 422
        assert name in str(response.json()["errors"])
    response = await client.post("/asr", files=upload("file"))
    assert response.status_code == 422
    assert world.repository.loads == []

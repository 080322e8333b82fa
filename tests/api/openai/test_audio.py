"""/v1/audio: fields, formats, streams and refusals, over a model without weights."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import httpx2
import openai
import orjson
import pytest
from openai import AsyncOpenAI

from domain.cue_options import CueOptions
from domain.errors import AudioRefused, GenerationFailed, UnsupportedCapability
from domain.listening import DecodingOptions, VadOptions
from domain.transcription import SpeechTask, TranscriptionRequest, Word
from tests.api.openai.frames import chunks_of, data_of
from tests.api.sound import SOUND, upload
from tests.api.world import SPEECH, TEXT, Served, World
from tests.fakes.models import segment

GRANULARITIES: dict[str, Any] = {"timestamp_granularities[]": ["word", "segment"]}
SAID = "Hello world. How are you?"
USAGE = {"type": "duration", "seconds": 4}


async def post(client: httpx2.AsyncClient, route: str = "transcriptions", **fields: Any) -> httpx2.Response:
    return await client.post(f"/v1/audio/{route}", files=upload(), data={"model": SPEECH, **fields})


def error_of(response: httpx2.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def asked(world: World) -> TranscriptionRequest:
    return world.repository.speech(SPEECH).heard[-1].request


@pytest.mark.parametrize("route", ["transcriptions", "translations"])
async def test_text_comes_in_every_format(client: httpx2.AsyncClient, route: str) -> None:
    assert (await post(client, route)).json() == {"text": SAID, "usage": USAGE}
    for form, media_type, body in (
        ("text", "text/plain; charset=utf-8", f"{SAID}\n"),
        ("srt", "application/x-subrip", "1\n00:00:00,000 --> 00:00:02,000\nHello world.\n"),
        ("vtt", "text/vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nHello world.\n"),
    ):
        response = await post(client, route, response_format=form)
        assert response.headers["content-type"] == media_type
        assert response.text.startswith(body)
    verbose = (await post(client, route, response_format="verbose_json")).json()
    segments = verbose.pop("segments")
    assert verbose == {
        "task": "translate" if route == "translations" else "transcribe",
        "language": "english",
        "duration": 4.0,
        "text": SAID,
        "usage": USAGE,
    }
    fields = "id seek start end text tokens temperature avg_logprob compression_ratio no_speech_prob"
    assert set(segments[0]) == set(fields.split())


async def test_words_and_segments_come_as_they_are_asked_for(world: World, client: httpx2.AsyncClient) -> None:
    script = world.repository.script(SPEECH).speech
    script.segments = [replace(segment(0, " Hi"), words=(Word(" Hi", 0.0, 0.5, 0.9),))]
    both = await post(client, response_format="verbose_json", **GRANULARITIES)
    assert both.json()["words"] == [{"word": "Hi", "start": 0.0, "end": 0.5, "probability": 0.9}]
    assert len(both.json()["segments"]) == 1
    words = await post(client, response_format="verbose_json", **{"timestamp_granularities[]": "word"})
    assert "segments" not in words.json()
    assert asked(world).word_timestamps is True
    segments = await post(client, response_format="verbose_json", **{"timestamp_granularities[]": "segment"})
    assert "words" not in segments.json()
    assert asked(world).word_timestamps is False


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"language": "English", "prompt": "Ana", "temperature": "0.2"}, {"language": "en", "prompt": "Ana"}),
        ({"languages[]": ["en", "de"]}, {"languages": ("en", "de")}),
        ({"keywords[]": ["Ingle", "Ana"]}, {"hotwords": "Ingle, Ana"}),
        ({"chunking_strategy": "auto"}, {}),
        (
            {"chunking_strategy": '{"type": "server_vad", "threshold": 0.3, "prefix_padding_ms": 200}'},
            {"vad": VadOptions(threshold=0.3, speech_pad_ms=200)},
        ),
        (
            {"chunking_strategy[type]": "server_vad", "chunking_strategy[silence_duration_ms]": "300"},
            {"vad": VadOptions(min_silence_ms=300)},
        ),
        ({"vad_filter": "false", "beam_size": "3"}, {"vad": VadOptions(enabled=False)}),
        ({"stream": "true"}, {}),
        ({"response_format": "srt"}, {"timestamps": True, "cues": CueOptions()}),
        ({"unknown": "field", "user": "me"}, {}),
    ],
)
async def test_fields_reach_the_model(
    world: World, client: httpx2.AsyncClient, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    response = await post(client, **fields)
    assert response.status_code == 200, response.text
    decoding = DecodingOptions(
        beam_size=int(fields.get("beam_size", 1)), temperature=float(fields.get("temperature", 0))
    )
    defaults = {
        "timestamps": False,
        "timeout_seconds": 3600.0,
        "client": "127.0.0.1",
        "decoding": decoding,
        "request_id": response.headers["x-request-id"],
    }
    assert asked(world) == TranscriptionRequest(**{**defaults, **expected})


async def test_a_translation_is_a_translation(world: World, client: httpx2.AsyncClient) -> None:
    assert (await post(client, "translations")).status_code == 200
    assert asked(world).task is SpeechTask.TRANSLATE
    assert (await post(client, "translations", task="transcribe")).status_code == 400
    world.repository.script(SPEECH).speech.error = UnsupportedCapability("it cannot translate", field="task")
    response = await post(client, "translations")
    assert (response.status_code, error_of(response)["code"]) == (400, "unsupported_capability")


async def test_a_stream_has_deltas_that_join_to_its_text(world: World, client: httpx2.AsyncClient) -> None:
    texts = ("  One ", " two.\n", " ", " Three  ")
    script = world.repository.script(SPEECH).speech
    first, *others = [segment(number, text) for number, text in enumerate(texts)]
    script.segments = [replace(first, tokens=(1, 2, 3)), *others]
    response = await post(client, stream="true")
    events = [orjson.loads(data) for data in data_of(response)[:-1]]
    assert data_of(response)[-1] == "[DONE]"
    assert [event["type"] for event in events] == ["transcript.text.delta"] * 3 + ["transcript.text.done"]
    assert events[-1]["text"] == "One  two.\n  Three"
    assert events[-1]["usage"] == {
        "type": "tokens",
        "input_tokens": 400,
        "output_tokens": 3,
        "total_tokens": 403,
        "input_token_details": {"audio_tokens": 400, "text_tokens": 0},
    }
    assert "".join(event["delta"] for event in events[:-1]) == events[-1]["text"]


async def test_silence_is_an_answer_in_every_format(world: World, client: httpx2.AsyncClient) -> None:
    world.repository.script(SPEECH).speech.segments = ()
    assert (await post(client)).json()["text"] == ""
    bodies = {form: (await post(client, response_format=form)).text for form in ("text", "srt", "vtt")}
    assert bodies == {"text": "", "srt": "", "vtt": "WEBVTT\n"}
    verbose = (await post(client, response_format="verbose_json")).json()
    assert (verbose["text"], verbose["language"], verbose["segments"]) == ("", "", [])
    [done] = chunks_of(await post(client, stream="true"))
    assert (done["type"], done["text"]) == ("transcript.text.done", "")


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"response_format": "diarized_json"}, "unsupported_value", "response_format"),
        ({"response_format": "lrc"}, "unsupported_value", "response_format"),
        ({"response_format": "docx"}, "invalid_value", "response_format"),
        ({"include[]": "logprobs"}, "unsupported_value", "include"),
        ({"timestamp_granularities[]": "word"}, "invalid_value", "timestamp_granularities"),
        (
            {"timestamp_granularities[]": "letter", "response_format": "verbose_json"},
            "invalid_value",
            "timestamp_granularities.0",
        ),
        ({"stream": "true", "response_format": "srt"}, "invalid_value", "stream"),
        ({"stream": "true", "response_format": "verbose_json"}, "invalid_value", "stream"),
        ({"known_speaker_names[]": "Ana"}, "unsupported_parameter", "known_speaker_names"),
        ({"known_speaker_references[]": "data:"}, "unsupported_parameter", "known_speaker_references"),
        ({"chunking_strategy": "manual"}, "invalid_value", "chunking_strategy"),
        ({"chunking_strategy": '{"type": "other"}'}, "invalid_value", "chunking_strategy"),
        ({"chunking_strategy[threshold]": "0.5"}, "invalid_value", "chunking_strategy"),
        ({"temperature": "1.1"}, "invalid_value", "temperature"),
        ({"language": "klingon"}, "invalid_value", "language"),
        ({"diarize": "true"}, "unsupported_parameter", "diarize"),
        ({"model": TEXT}, "unsupported_capability", "model"),
        ({"model": ""}, "invalid_value", "model"),
    ],
)
async def test_what_is_not_offered_is_refused_by_name(
    client: httpx2.AsyncClient, fields: dict[str, Any], code: str, param: str
) -> None:
    response = await post(client, **fields)
    error = error_of(response)
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert (error["code"], error["param"]) == (code, param)


async def test_bodies_that_are_no_form_with_a_file_are_refused(client: httpx2.AsyncClient) -> None:
    route = "/v1/audio/transcriptions"
    assert (await client.post(route, json={"model": SPEECH})).status_code == 415
    headers = {"content-type": "audio/wav"}
    assert (await client.post(route, content=SOUND, headers=headers)).status_code == 415
    response = await client.post(route, files={"sound": SOUND}, data={"model": SPEECH})
    assert (response.status_code, error_of(response)["param"]) == (400, "file")
    response = await client.post(route, files=upload(content=b""), data={"model": SPEECH})
    assert (response.status_code, error_of(response)["code"]) == (400, "empty_audio")
    response = await client.post(route, files=upload(), data={"model": "ear:bass"})
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")


async def test_a_stream_that_fails_says_so_and_withholds_its_end(world: World, client: httpx2.AsyncClient) -> None:
    script = world.repository.script(SPEECH).speech
    script.error, script.error_after = GenerationFailed("the device has failed"), 1
    frames = data_of(await post(client, stream="true"))
    assert orjson.loads(frames[-1])["error"]["code"] == "generation_failed"
    script.error, script.error_after = AudioRefused(), 0
    response = await post(client, stream="true")
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_audio")
    assert world.uploads == []


@pytest.fixture
async def official(server: Served) -> AsyncGenerator[AsyncOpenAI, None]:
    url = f"http://{server.host}:{server.port}/v1"
    async with AsyncOpenAI(base_url=url, api_key="any", max_retries=0, _strict_response_validation=True) as client:
        yield client


async def test_the_official_client_reads_answers_streams_and_refusals(official: AsyncOpenAI, world: World) -> None:
    create, sound = official.audio.transcriptions.create, ("a.wav", SOUND)
    assert (await create(model=SPEECH, file=sound)).text == SAID
    stream = await create(
        model=SPEECH,
        file=sound,
        stream=True,
        chunking_strategy={"type": "server_vad", "threshold": 0.4},
        extra_body={"keywords": ["Ana", "Ingle"], "preset": "accurate"},
    )
    events = [event async for event in stream]
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert events[-1].type == "transcript.text.done"
    assert "".join(deltas) == events[-1].text == SAID
    request = asked(world)
    assert (request.vad.threshold, request.hotwords, request.decoding.beam_size) == (0.4, "Ana, Ingle", 5)
    with pytest.raises(openai.BadRequestError) as refusal:
        await create(model=SPEECH, file=sound, include=["logprobs"])
    assert refusal.value.code == "unsupported_value"

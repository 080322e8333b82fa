"""Recordings at servers that speak OpenAI's API or that of whisper-asr-webservice, over real sockets."""

import asyncio
import email
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from application.circuit_breaker import BreakerPolicy
from domain.errors import (
    BadResponse,
    DeadlineExceeded,
    IngleError,
    ProviderError,
    ProviderRefusesKey,
    ProviderUnavailable,
    RequestCancelled,
    UnsupportedCapability,
    UnsupportedParameter,
)
from domain.listening import DecodingOptions, GuardOptions, VadOptions
from domain.model import Model, Task
from domain.transcription import (
    Channel,
    DetectionRequest,
    LanguageHeard,
    Progress,
    Segment,
    SpeechTask,
    Transcript,
    TranscriptionEvent,
    TranscriptionRequest,
)
from infrastructure.clock import SystemClock
from infrastructure.providers.connection import Connection
from infrastructure.providers.entry import WHISPERX, ProvidedModel, ProviderEntry, SpeechShape
from infrastructure.providers.events import MAX_ANSWER
from infrastructure.providers.repository import ProvidedModels
from infrastructure.providers.speech_model import ProvidedSpeechModel
from tests.fakes.clock import FakeClock
from tests.providers.stub import JSON, KEY, QUICK, Reply, Request, StubProvider, failing, stub_provider, whole

SOUND = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(range(256)) * 2000
TEXT = {"content-type": "text/plain; charset=utf-8"}
SEGMENTS = [
    {"id": 0, "start": 0.0, "end": 2.0, "text": " Hello world.", "avg_logprob": -0.2, "temperature": 0.0},
    {"id": 1, "start": 2.0, "end": 4.5, "text": " How are you?", "avg_logprob": -0.3, "temperature": 0.2},
]
HEARD = {"task": "transcribe", "language": "english", "duration": 5.0, "text": "Hello world. How are you?"}
OPENAI = whole({**HEARD, "segments": SEGMENTS})
# That service says that its JSON is plain text.
ASR = Reply(
    headers=TEXT,
    pieces=(json.dumps({"text": HEARD["text"], "segments": SEGMENTS, "language": "en"}).encode(),),
)
BOTH = pytest.mark.parametrize(("shape", "reply"), [(SpeechShape.OPENAI, OPENAI), (SpeechShape.ASR, ASR)])


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    path = tmp_path / "input.bin"
    path.write_bytes(SOUND)
    return path


def entry_of(stub: StubProvider, shape: SpeechShape, **changes: Any) -> ProviderEntry:
    base = f"http://127.0.0.1:{stub.port}" + ("/v1" if shape is SpeechShape.OPENAI else "")
    return stub.entry(name=WHISPERX, base_url=base, kind=WHISPERX, speech_shape=shape, **changes)


def model_of(entry: ProviderEntry, clock: Any = None) -> ProvidedSpeechModel:
    provided = ProvidedModel(WHISPERX, "large-v3", entry, Task.SPEECH, capabilities=("transcription",))
    info = Model(provided.spec).loaded(
        device="remote", dtype="auto", quantization="auto", context_length=0, memory_bytes=0, load_time_ms=0
    )
    return ProvidedSpeechModel(provided, info, Connection(entry, clock or SystemClock(), jitter=lambda: 0.5))


async def collect(model: ProvidedSpeechModel, audio: Path, **wishes: Any) -> list[TranscriptionEvent]:
    async with aclosing(model.transcribe(audio, TranscriptionRequest(**wishes))) as events:
        return [event async for event in events]


async def heard(stub: StubProvider, shape: SpeechShape, audio: Path, **wishes: Any) -> Transcript:
    transcript = (await collect(model_of(entry_of(stub, shape)), audio, **wishes))[-1]
    assert isinstance(transcript, Transcript)
    return transcript


def form_of(request: Request) -> dict[str, list[tuple[str | None, bytes]]]:
    """Field → (file name, content), as somebody else's reader of forms sees it."""
    head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + request.body)
    fields: dict[str, list[tuple[str | None, bytes]]] = {}
    for part in message.walk():
        if not part.is_multipart():
            name = str(part.get_param("name", header="content-disposition"))
            fields.setdefault(name, []).append((part.get_filename(), part.get_payload(decode=True)))  # type: ignore[arg-type]
    return fields


@BOTH
async def test_a_recording_comes_back_as_events_that_join_to_its_text(
    shape: SpeechShape, reply: Reply, audio: Path
) -> None:
    async with stub_provider(reply) as stub:
        model = model_of(entry_of(stub, shape))
        events = await collect(model, audio, request_id="r-1")
        [request] = stub.requests
    assert [type(event) for event in events] == [Progress, LanguageHeard, Segment, Segment, Progress, Transcript]
    transcript = events[-1]
    assert isinstance(transcript, Transcript)
    assert (transcript.text, transcript.language) == ("Hello world. How are you?", "en")
    assert transcript.duration == (5.0 if shape is SpeechShape.OPENAI else 4.5)
    assert "".join(segment.text for segment in transcript.segments).strip() == transcript.text
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["x-request-id"] == "r-1"
    assert model.waiting == 0


async def test_openai_is_sent_a_form_with_its_fields(audio: Path) -> None:
    async with stub_provider(OPENAI) as stub:
        wishes = {"language": "de", "prompt": "Ingle", "decoding": DecodingOptions(beam_size=5, temperature=0.4)}
        await heard(stub, SpeechShape.OPENAI, audio, word_timestamps=True, **wishes)
        [request] = stub.requests
    assert request.path == "/v1/audio/transcriptions"
    form = form_of(request)
    assert form.pop("file") == [("audio.wav", SOUND)]
    assert form == {
        "model": [(None, b"large-v3")],
        "response_format": [(None, b"verbose_json")],
        "language": [(None, b"de")],
        "prompt": [(None, b"Ingle")],
        "temperature": [(None, b"0.4")],
        "timestamp_granularities[]": [(None, b"segment"), (None, b"word")],
    }


async def test_openai_translates_at_the_path_beside(audio: Path) -> None:
    async with stub_provider(OPENAI) as stub:
        await heard(stub, SpeechShape.OPENAI, audio, task=SpeechTask.TRANSLATE)
        [request] = stub.requests
    assert request.path == "/v1/audio/translations"
    assert set(form_of(request)) == {"model", "response_format", "file"}


async def test_the_webservice_is_sent_a_query_and_a_file(audio: Path) -> None:
    async with stub_provider(ASR) as stub:
        wishes = {"language": "German", "prompt": "a & b", "task": SpeechTask.TRANSLATE}
        await heard(stub, SpeechShape.ASR, audio, vad=VadOptions(enabled=False), word_timestamps=True, **wishes)
        [request] = stub.requests
    assert urlsplit(request.path).path == "/asr"
    assert parse_qs(urlsplit(request.path).query) == {
        "task": ["translate"],
        "output": ["json"],
        "language": ["de"],
        "initial_prompt": ["a & b"],
        "vad_filter": ["false"],
        "word_timestamps": ["true"],
    }
    assert form_of(request) == {"audio_file": [("audio.wav", SOUND)]}


@pytest.mark.parametrize(
    ("head", "ending"),
    [
        (b"fLaC", "flac"),
        (b"OggS", "ogg"),
        (b"ID3\x04", "mp3"),
        (b"\0\0\0\x20ftypM4A ", "m4a"),
        (b"\x1aE\xdf\xa3", "webm"),
    ],
)
async def test_a_recording_is_named_by_what_it_is(head: bytes, ending: str, audio: Path) -> None:
    await asyncio.to_thread(audio.write_bytes, head + SOUND)
    async with stub_provider(OPENAI) as stub:
        await heard(stub, SpeechShape.OPENAI, audio)
        [(name, _)] = form_of(stub.requests[0])["file"]
    assert name == f"audio.{ending}"


WORDS = [
    {"word": "Hello", "start": 0.1, "end": 0.5},
    {"word": "world.", "start": 0.6, "end": 1.0},
    {"word": "How", "start": 2.1, "end": 2.3},
]


async def test_words_of_a_list_of_their_own_are_in_the_segment_that_they_begin_in(audio: Path) -> None:
    async with stub_provider(whole({**HEARD, "segments": SEGMENTS, "words": WORDS})) as stub:
        first, second = (await heard(stub, SpeechShape.OPENAI, audio, word_timestamps=True)).segments
    assert [word.text for word in first.words] == [" Hello", " world."]
    assert [(word.text, word.start, word.end) for word in second.words] == [(" How", 2.1, 2.3)]


async def test_words_that_could_not_be_timed_stand_where_the_one_before_them_ended(audio: Path) -> None:
    words = [{"word": "Hello", "start": 0.1, "end": 0.5, "score": 0.9}, {"word": "2026"}]
    segments = [{"start": 0.0, "end": 1.0, "text": "Hello 2026", "words": words}]
    async with stub_provider(whole({"segments": segments, "language": "en"})) as stub:
        transcript = await heard(stub, SpeechShape.ASR, audio)
    [segment] = transcript.segments
    assert [(word.start, word.end, word.probability) for word in segment.words] == [(0.1, 0.5, 0.9), (0.5, 0.5, 0.0)]
    assert transcript.text == "Hello 2026"


async def test_segments_written_as_rows_are_read(audio: Path) -> None:
    row = [1, 0, 0.0, 2.0, " Hello.", [50364], 0.0, -0.2, 1.1, 0.01, [[0.1, 0.5, " Hello.", 0.8]]]
    async with stub_provider(whole({"text": " Hello.", "segments": [row], "language": "en"})) as stub:
        [segment] = (await heard(stub, SpeechShape.ASR, audio)).segments
    assert (segment.id, segment.end, segment.text, segment.avg_logprob) == (0, 2.0, " Hello.", -0.2)
    assert [word.probability for word in segment.words] == [0.8]


async def test_stripped_segments_are_joined_as_the_text_is(audio: Path) -> None:
    bare = [{**segment, "text": str(segment["text"]).strip()} for segment in SEGMENTS]
    async with stub_provider(whole({**HEARD, "segments": bare})) as stub:
        assert [one.text for one in (await heard(stub, SpeechShape.OPENAI, audio)).segments] == [
            " Hello world.",
            " How are you?",
        ]


async def test_a_text_without_segments_is_one_and_silence_is_none(audio: Path) -> None:
    async with stub_provider(whole(HEARD), whole({"text": ""})) as stub:
        [segment] = (await heard(stub, SpeechShape.OPENAI, audio)).segments
        silence = await heard(stub, SpeechShape.OPENAI, audio)
    assert (segment.text.strip(), segment.start, segment.end) == (HEARD["text"], 0.0, 5.0)
    assert (silence.text, silence.language, silence.segments) == ("", None, ())


async def test_a_language_that_nobody_knows_is_a_caveat(audio: Path) -> None:
    async with stub_provider(whole({**HEARD, "language": "klingon"})) as stub:
        transcript = await heard(stub, SpeechShape.OPENAI, audio)
    assert transcript.language is None
    assert [caveat.code for caveat in transcript.warnings] == ["language_unknown"]


@pytest.mark.parametrize(
    ("shape", "wishes", "field"),
    [
        (SpeechShape.ASR, {"languages": ("en", "de")}, "languages"),
        (SpeechShape.ASR, {"multilingual": True}, "multilingual"),
        (SpeechShape.ASR, {"hotwords": "Ingle"}, "hotwords"),
        (SpeechShape.ASR, {"clips": ((0.0, 1.0),)}, "clip_timestamps"),
        (SpeechShape.ASR, {"channel": Channel.SPLIT}, "channel"),
        (SpeechShape.ASR, {"guard": GuardOptions(enabled=False)}, "hallucination_guard"),
        (SpeechShape.ASR, {"vad": VadOptions(threshold=0.9)}, "vad_threshold"),
        (SpeechShape.ASR, {"decoding": DecodingOptions(temperature=0.4)}, "temperature"),
        (SpeechShape.ASR, {"decoding": DecodingOptions(patience=2.0)}, "patience"),
        (SpeechShape.OPENAI, {"decoding": DecodingOptions(temperature=(0.0, 0.4))}, "temperature"),
        (SpeechShape.OPENAI, {"vad": VadOptions(enabled=False)}, "vad_filter"),
        (SpeechShape.OPENAI, {"task": SpeechTask.TRANSLATE, "word_timestamps": True}, "word_timestamps"),
    ],
)
async def test_what_the_server_cannot_be_told_is_refused_by_name(
    shape: SpeechShape, wishes: dict[str, Any], field: str, audio: Path
) -> None:
    async with stub_provider(OPENAI) as stub:
        with pytest.raises(UnsupportedParameter) as caught:
            await heard(stub, shape, audio, **wishes)
        assert stub.requests == []
    assert caught.value.field == field


async def test_a_language_alone_is_not_to_be_had(audio: Path) -> None:
    async with stub_provider(OPENAI) as stub:
        with pytest.raises(UnsupportedCapability):
            await model_of(entry_of(stub, SpeechShape.ASR)).detect_language(audio, DetectionRequest())


# -- faults ----------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("status", [429, 500, 503])
async def test_what_may_pass_is_tried_again_with_the_whole_recording(
    shape: SpeechShape, reply: Reply, status: int, audio: Path
) -> None:
    async with stub_provider(failing(status), failing(status), reply) as stub:
        assert (await heard(stub, shape, audio)).text == HEARD["text"]
        field = "file" if shape is SpeechShape.OPENAI else "audio_file"
        assert [form_of(request)[field][0][1] for request in stub.requests] == [SOUND] * 3


@BOTH
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (failing(500), ProviderError),
        (failing(302), ProviderError),
        (failing(404), ProviderError),
        (failing(503), ProviderUnavailable),
        (failing(401, f"wrong key {KEY}"), ProviderRefusesKey),
        (Reply(headers=JSON, pieces=(b"{]",)), BadResponse),
        (Reply(headers={"content-type": "text/html"}, pieces=(b"<html>",)), BadResponse),
        (whole([]), BadResponse),
        (whole({}), BadResponse),
        (whole({"text": 3}), BadResponse),
        (whole({"text": "a", "segments": 3}), BadResponse),
        (whole({"text": "a", "segments": [3]}), BadResponse),
        (whole({"text": "a", "segments": [{"start": 0}]}), BadResponse),
        (whole({"text": "a", "segments": [{"text": "a", "start": "soon"}]}), BadResponse),
        (whole({"text": "a", "segments": [{"text": "a", "words": 3}]}), BadResponse),
        (whole({"error": {"message": f"Bearer {KEY}"}}), ProviderError),
        (Reply(headers=JSON, pieces=(b" " * (1 << 20),) * (MAX_ANSWER // (1 << 20) + 2)), BadResponse),
        (Reply(headers={**JSON, "content-length": "99"}, pieces=(b"{}",)), ProviderUnavailable),
    ],
)
async def test_whatever_it_answers_has_a_name_and_shows_no_key(
    shape: SpeechShape, reply: Reply, answer: Reply, kind: type[IngleError], audio: Path
) -> None:
    del reply
    async with stub_provider(answer) as stub:
        with pytest.raises(kind) as caught:
            await heard(stub, shape, audio)
    assert type(caught.value) is kind
    assert KEY not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


@BOTH
async def test_half_an_answer_and_then_silence_ends_in_time(shape: SpeechShape, reply: Reply, audio: Path) -> None:
    del reply
    async with stub_provider(Reply(headers=JSON, pieces=(b"{", None))) as stub:
        with pytest.raises(DeadlineExceeded):
            await collect(model_of(entry_of(stub, shape, patience=QUICK)), audio)


async def test_a_server_that_is_not_there_is_unavailable_and_soon_not_asked(audio: Path) -> None:
    async with stub_provider(OPENAI) as stub:
        entry = entry_of(stub, SpeechShape.OPENAI, breaker=BreakerPolicy(failures=3))
    model = model_of(entry, FakeClock())
    for _ in range(2):
        with pytest.raises(ProviderUnavailable):
            await collect(model, audio)
    assert model._connection.circuit.value == "open"


async def test_a_request_s_own_time_ends_the_wait_and_abort_is_for_good(audio: Path) -> None:
    async with stub_provider(Reply(headers=JSON, pieces=(None,))) as stub:
        model = model_of(entry_of(stub, SpeechShape.ASR))
        with pytest.raises(DeadlineExceeded):
            await collect(model, audio, timeout_seconds=0.05)
        model.abort()
        with pytest.raises(RequestCancelled):
            await collect(model, audio)
    assert model.waiting == 0


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (failing(405), "ok", None),
        (whole({}), "ok", None),
        (failing(404), "degraded", "provider_error"),
        (failing(503), "down", "provider_unavailable"),
        (failing(401), "degraded", "auth_error"),
        (Reply(status=0), "down", "provider_unavailable"),
    ],
)
@pytest.mark.parametrize("shape", list(SpeechShape))
async def test_the_state_is_told_by_the_path_that_takes_recordings(
    shape: SpeechShape, answer: Reply, status: str, code: str | None
) -> None:
    async with stub_provider(answer) as stub:
        provided = ProvidedModel(WHISPERX, "large-v3", entry_of(stub, shape), Task.SPEECH)
        models = ProvidedModels([provided], SystemClock())
        [state] = await models.states()
        await models.close()
        assert urlsplit(stub.requests[0].path).path.endswith(shape.path)
    assert (state.name, state.kind, state.status, state.error_code) == (WHISPERX, "whisperx", status, code)
    assert state.models == (WHISPERX,)

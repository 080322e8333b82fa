"""The official client, a real `ingle serve` and whisper:base: every format, granularities, streams, translation."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import orjson
import pytest
import srt  # type: ignore[import-untyped]
import webvtt
from openai import OpenAI

MODEL = "whisper:base"
ASK_NOT = "ask not what your country can do for you"

pytestmark = pytest.mark.weights(MODEL)


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, _strict_response_validation=True) as client:
        yield client


@pytest.fixture(scope="module")
def clip(audio_dir: Path) -> Path:
    return audio_dir / "jfk.wav"


def said(text: str) -> str:
    return " ".join(text.lower().replace(",", "").split())


def test_every_format_says_the_same(client: OpenAI, clip: Path) -> None:
    wish: dict[str, Any] = {"model": MODEL, "language": "en"}
    plain = client.audio.transcriptions.create(**wish, file=clip)
    assert ASK_NOT in said(plain.text)
    assert orjson.loads(plain.model_dump_json())["usage"] == {"type": "duration", "seconds": 11.0}
    text = client.audio.transcriptions.create(**wish, file=clip, response_format="text")
    assert ASK_NOT in said(text)
    subtitles = list(srt.parse(client.audio.transcriptions.create(**wish, file=clip, response_format="srt")))
    captions = webvtt.from_string(client.audio.transcriptions.create(**wish, file=clip, response_format="vtt")).captions
    assert [cue.content for cue in subtitles] == [cue.text for cue in captions]
    assert ASK_NOT in said(" ".join(cue.content for cue in subtitles))
    assert all(cue.end.total_seconds() <= 11.01 for cue in subtitles)


def test_words_and_segments_are_where_they_are_said(client: OpenAI, clip: Path) -> None:
    verbose = client.audio.transcriptions.create(
        model="whisper-1", file=clip, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert (verbose.language, round(verbose.duration)) == ("english", 11)
    assert verbose.words is not None and verbose.segments is not None
    starts = [word.start for word in verbose.words]
    assert starts == sorted(starts)
    assert said(" ".join(word.word for word in verbose.words)) == said(verbose.text)
    assert all(segment.tokens for segment in verbose.segments)
    words = client.audio.transcriptions.create(
        model=MODEL, file=clip, response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert words.segments is None


def test_a_stream_joins_to_the_answer(client: OpenAI, clip: Path) -> None:
    whole = client.audio.transcriptions.create(model=MODEL, file=clip, language="en")
    events = list(client.audio.transcriptions.create(model=MODEL, file=clip, language="en", stream=True))
    last = events[-1]
    assert last.type == "transcript.text.done"
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert "".join(deltas) == last.text == whole.text
    assert last.usage is not None
    assert last.usage.output_tokens > 10


# The client calls its own translations deprecated.
@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_a_translation_of_english_is_english(client: OpenAI, clip: Path) -> None:
    assert ASK_NOT in said(client.audio.translations.create(model=MODEL, file=clip).text)
    verbose = client.audio.translations.create(model=MODEL, file=clip, response_format="verbose_json")
    assert verbose.segments


def test_what_is_no_recording_is_refused(client: OpenAI) -> None:
    for content in (b"", b"a letter, not a sound"):
        with pytest.raises(openai.BadRequestError) as refusal:
            client.audio.transcriptions.create(model=MODEL, file=("a.mp3", io.BytesIO(content)))
        assert refusal.value.code == ("invalid_audio" if content else "empty_audio")


def test_the_native_routes_hear_the_same(url: str, clip: Path) -> None:
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as native:
        sound = clip.read_bytes()
        detected = native.post("/detect-language", files={"file": sound}).json()
        assert (detected["language"], detected["detected_language"]) == ("en", "english")
        assert detected["confidence"] > 0.5
        batch = native.post("/transcribe/batch", files=[("files", sound), ("files", b"text")]).json()
        assert [entry.get("code") for entry in batch["results"]] == [None, "invalid_audio"]
        assert ASK_NOT in said(batch["results"][0]["text"])
        form = {"stream": "true", "response_format": "vtt", "max_line_width": "20", "highlight_words": "true"}
        frames = native.post("/transcribe", files={"file": sound}, data=form).text.split("\n\n")
        events = [orjson.loads(frame.split("data: ", 1)[1]) for frame in frames if "data: " in frame]
        segments = [event["segment"]["text"] for event in events if event["type"] == "segment"]
        assert ASK_NOT in said("".join(segments))
        captions = webvtt.from_string(events[-1]["body"]["content"]).captions
        assert len(captions) > 15
        assert all(len(line) <= 20 for cue in captions for line in cue.text.split("\n"))
        status = native.get("/queue/status").json()
        assert (status["queued"], status["running"]) == (0, 0)
        assert status["total_processed"] >= 3

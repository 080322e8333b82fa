"""The parameters of speech: one request in the domain, whether they come by form, by query string or as JSON."""

from typing import Any

import httpx2
import pytest

from domain.cue_options import CueOptions
from domain.languages import LANGUAGES
from domain.listening import DecodingOptions, GuardOptions, VadOptions
from domain.transcription import Channel, SpeechTask, TranscriptionRequest
from tests.api.sound import SOUND, upload
from tests.api.world import SPEECH, World

URL = "https://example.org/a.mp3"


def wanted(world: World, **expected: Any) -> TranscriptionRequest:
    request = world.repository.speech(SPEECH).heard[-1].request
    defaults = {
        "timestamps": False,
        "timeout_seconds": 3600.0,
        "request_id": request.request_id,
        "client": "127.0.0.1",
    }
    return TranscriptionRequest(**{**defaults, **expected})


SRT = {"timestamps": True, "cues": CueOptions()}
ACCEPTED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"language": "Portuguese"}, {"language": "pt"}),
    ({"language": "auto"}, {}),
    ({"language": ""}, {}),
    ({"languages": ["en", "German"]}, {"languages": ("en", "de")}),
    ({"multilingual": True}, {"multilingual": True}),
    ({"task": "translate"}, {"task": SpeechTask.TRANSLATE}),
    ({"include_segments": True}, {"timestamps": True}),
    ({"word_timestamps": True}, {"timestamps": True, "word_timestamps": True}),
    ({"response_format": "text"}, {}),
    ({"response_format": "verbose_json"}, {"timestamps": True, "word_timestamps": True}),
    ({"response_format": "tsv"}, {"timestamps": True}),
    ({"response_format": "srt"}, SRT),
    ({"response_format": "lrc", "highlight_words": True}, SRT),
    (
        {"response_format": "vtt", "max_line_width": 10, "max_line_count": 4, "max_cue_seconds": 30},
        {"timestamps": True, "cues": CueOptions(10, 4, 30.0)},
    ),
    (
        {"response_format": "srt", "max_words_per_line": 50, "highlight_words": True},
        {"timestamps": True, "cues": CueOptions(max_words_per_line=50, highlight_words=True)},
    ),
    ({"prompt": "Names: Ana"}, {"prompt": "Names: Ana"}),
    ({"initial_prompt": "x" * 2048}, {"prompt": "x" * 2048}),
    ({"hotwords": "Ingle, Ana"}, {"hotwords": "Ingle, Ana"}),
    ({"keywords[]": ["Ingle", "Ana"]}, {"hotwords": "Ingle, Ana"}),
    ({"condition_on_previous_text": True}, {"condition_on_previous_text": True}),
    ({"preset": "accurate"}, {"decoding": DecodingOptions(beam_size=5)}),
    ({"preset": "accurate", "beam_size": 1}, {"decoding": DecodingOptions(beam_size=1)}),
    ({"beam_size": 10, "best_of": 10}, {"decoding": DecodingOptions(beam_size=10, best_of=10)}),
    ({"best_of": 1, "patience": 3}, {"decoding": DecodingOptions(best_of=1, patience=3.0)}),
    ({"patience": 0.5, "length_penalty": 3}, {"decoding": DecodingOptions(patience=0.5, length_penalty=3.0)}),
    ({"length_penalty": 0.1}, {"decoding": DecodingOptions(length_penalty=0.1)}),
    ({"repetition_penalty": 2}, {"decoding": DecodingOptions(repetition_penalty=2.0)}),
    ({"no_repeat_ngram_size": 10}, {"decoding": DecodingOptions(no_repeat_ngram_size=10)}),
    ({"temperature": 0.4}, {"decoding": DecodingOptions(temperature=0.4)}),
    ({"temperature": 1}, {"decoding": DecodingOptions(temperature=1.0)}),
    ({"temperature": [0, 0.5, 1]}, {"decoding": DecodingOptions(temperature=(0.0, 0.5, 1.0))}),
    ({"compression_ratio_threshold": 1}, {"guard": GuardOptions(compression_ratio_threshold=1.0)}),
    ({"compression_ratio_threshold": None}, {"guard": GuardOptions(compression_ratio_threshold=None)}),
    ({"log_prob_threshold": -10}, {"guard": GuardOptions(log_prob_threshold=-10.0)}),
    ({"log_prob_threshold": None}, {"guard": GuardOptions(log_prob_threshold=None)}),
    ({"no_speech_threshold": 1}, {"guard": GuardOptions(no_speech_threshold=1.0)}),
    ({"no_speech_threshold": None}, {"guard": GuardOptions(no_speech_threshold=None)}),
    ({"hallucination_guard": False}, {"guard": GuardOptions(enabled=False)}),
    ({"vad_filter": False}, {"vad": VadOptions(enabled=False)}),
    ({"vad_threshold": 0.05, "vad_min_silence_ms": 0}, {"vad": VadOptions(threshold=0.05, min_silence_ms=0)}),
    ({"vad_threshold": 0.95, "vad_min_silence_ms": 10000}, {"vad": VadOptions(threshold=0.95, min_silence_ms=10_000)}),
    ({"vad_min_speech_ms": 5000, "vad_speech_pad_ms": 0}, {"vad": VadOptions(min_speech_ms=5000, speech_pad_ms=0)}),
    ({"vad_speech_pad_ms": 1000}, {"vad": VadOptions(speech_pad_ms=1000)}),
    ({"clip_timestamps": [0, 1.5, 3, 4]}, {"clips": ((0.0, 1.5), (3.0, 4.0))}),
    ({"channel": "split"}, {"channel": Channel.SPLIT}),
    ({"timeout": 5}, {"timeout_seconds": 5.0}),
    ({"priority": -10}, {"priority": -10}),
    ({"diarize": False, "unknown": "field", "keep_alive": "5m"}, {}),
]


RANGES: dict[str, tuple[float, float]] = {
    "beam_size": (1, 10),
    "best_of": (1, 10),
    "patience": (0.5, 3.0),
    "length_penalty": (0.1, 3.0),
    "repetition_penalty": (1.0, 2.0),
    "no_repeat_ngram_size": (0, 10),
    "temperature": (0.0, 1.0),
    "compression_ratio_threshold": (1.0, 10.0),
    "log_prob_threshold": (-10.0, 0.0),
    "no_speech_threshold": (0.0, 1.0),
    "vad_threshold": (0.05, 0.95),
    "vad_min_silence_ms": (0, 10_000),
    "vad_min_speech_ms": (0, 5_000),
    "vad_speech_pad_ms": (0, 1_000),
    "max_line_width": (10, 200),
    "max_line_count": (1, 4),
    "max_cue_seconds": (1.0, 30.0),
    "max_words_per_line": (0, 50),
    "priority": (-10, 10),
    "timeout": (0.001, 86_400.0),
}
# What is as large or as small as may be; cues are only cut for formats that have them.
EDGES: list[dict[str, Any]] = [
    *(
        {name: value, "response_format": "srt"}
        for name, limits in RANGES.items()
        for value in limits
        if (name, value) != ("timeout", 0.001)
    ),
    {"prompt": "é" * 1024, "hotwords": "x" * 2048},
    {"languages": sorted(LANGUAGES)[:20]},
    {"temperature": [0, 0.1, 0.2, 0.3, 0.4, 0.5]},
    {"clip_timestamps": ",".join(map(str, range(1000)))},
]


def as_text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def repeated(fields: dict[str, Any]) -> dict[str, Any]:
    """A form or a query string, lists as repeated fields."""
    return {
        name: [as_text(one) for one in value] if isinstance(value, list) else as_text(value)
        for name, value in fields.items()
    }


def separated(fields: dict[str, Any]) -> dict[str, Any]:
    """The same, lists separated by commas."""
    return {
        name: ",".join(map(as_text, value)) if isinstance(value, list) else as_text(value)
        for name, value in fields.items()
    }


@pytest.mark.parametrize(("fields", "expected"), ACCEPTED)
async def test_every_way_to_give_a_parameter_means_the_same(
    world: World, client: httpx2.AsyncClient, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    world.fetcher.pages[URL] = SOUND
    ways: list[tuple[str, dict[str, Any]]] = [
        ("/transcribe", {"files": upload(), "data": repeated(fields)}),
        ("/transcribe", {"files": upload(), "params": separated(fields)}),
        ("/transcribe", {"files": upload(), "params": repeated(fields), "data": separated(fields)}),
        ("/transcribe/url", {"json": {"url": URL, **fields}}),
        ("/transcribe/url", {"params": {"url": URL, **separated(fields)}}),
        ("/transcribe/url", {"params": separated(fields), "json": {"url": URL, **fields}}),
    ]
    for path, arguments in ways:
        if "keywords[]" in fields and arguments.get("params"):
            continue  # a comma may stand inside a phrase
        response = await client.post(path, **arguments)
        assert response.status_code == 200, response.text
        assert world.repository.speech(SPEECH).heard[-1].request == wanted(world, **expected)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"language": "klingon"}, "validation_error"),
    ({"languages": ["en", "klingon"]}, "validation_error"),
    ({"languages": ["en"], "language": "en"}, "validation_error"),
    ({"multilingual": True, "language": "en"}, "validation_error"),
    ({"task": "sing"}, "validation_error"),
    ({"response_format": "docx"}, "validation_error"),
    ({"prompt": "x" * 2049}, "validation_error"),
    ({"hotwords": "é" * 1025}, "validation_error"),
    ({"preset": "slow"}, "validation_error"),
    ({"stream": "perhaps"}, "validation_error"),
    ({"beam_size": 1.5}, "validation_error"),
    ({"beam_size": True}, "validation_error"),
    ({"temperature": "warm"}, "validation_error"),
    ({"temperature": "nan"}, "validation_error"),
    ({"temperature": [0.5, 0.2]}, "validation_error"),
    ({"temperature": [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}, "validation_error"),
    ({"clip_timestamps": [0, 1, 2]}, "validation_error"),
    ({"clip_timestamps": [2, 1]}, "validation_error"),
    ({"clip_timestamps": [0, 2, 1, 3]}, "validation_error"),
    ({"clip_timestamps": ",".join(map(str, range(1002)))}, "validation_error"),
    ({"channel": "middle"}, "validation_error"),
    ({"keep_alive": "soon"}, "validation_error"),
    ({"timeout": -1}, "validation_error"),
    ({"diarize": True}, "unsupported_parameter"),
    ({"languages": sorted(LANGUAGES)[:21]}, "validation_error"),
    ({"timeout": 0}, "validation_error"),
    ({"timeout": "inf"}, "validation_error"),
    ({"keep_alive": True}, "validation_error"),
]
REFUSED += [
    ({name: value}, "validation_error")
    for name, (low, high) in RANGES.items()
    for step in [1 if isinstance(low, int) else 0.001]
    for value in (low - step, high + step)
]


@pytest.mark.parametrize(("fields", "code"), REFUSED)
async def test_a_parameter_that_makes_no_sense_is_422_by_name(
    world: World, client: httpx2.AsyncClient, fields: dict[str, Any], code: str
) -> None:
    world.fetcher.pages[URL] = SOUND
    ways: list[tuple[str, dict[str, Any]]] = [
        ("/transcribe", {"files": upload(), "data": repeated(fields)}),
        ("/transcribe", {"files": upload(), "params": separated(fields)}),
        ("/transcribe/url", {"json": {"url": URL, **fields}}),
    ]
    for path, arguments in ways:
        response = await client.post(path, **arguments)
        assert (response.status_code, response.json()["code"]) == (422, code), response.text
        assert next(iter(fields)) in str(response.json()["errors"])
    assert world.repository.loads == []
    assert world.fetcher.targets == []


async def test_one_name_with_two_values_is_refused(world: World, client: httpx2.AsyncClient) -> None:
    world.fetcher.pages[URL] = SOUND
    for path, arguments in (
        ("/transcribe", {"files": upload(), "params": {"language": "en"}, "data": {"language": "de"}}),
        ("/transcribe", {"files": upload(), "data": {"task": ["transcribe", "translate"]}}),
        ("/transcribe", {"files": upload(), "data": {"prompt": "a", "initial_prompt": "b"}}),
        ("/transcribe/url", {"params": {"beam_size": "2"}, "json": {"url": URL, "beam_size": 3}}),
        ("/transcribe/url", {"params": {"url": "https://example.org/b.mp3"}, "json": {"url": URL}}),
    ):
        response = await client.post(path, **arguments)
        assert (response.status_code, response.json()["code"]) == (422, "validation_error"), arguments
    for path, arguments in (
        ("/transcribe", {"files": upload(), "params": {"language": "de"}, "data": {"language": "de"}}),
        ("/transcribe", {"files": upload(), "params": {"vad_filter": "1"}, "data": {"vad_filter": "true"}}),
        ("/transcribe/url", {"params": {"beam_size": "3"}, "json": {"url": URL, "beam_size": 3}}),
    ):
        assert (await client.post(path, **arguments)).status_code == 200


async def test_types_of_json_are_strict(world: World, client: httpx2.AsyncClient) -> None:
    world.fetcher.pages[URL] = SOUND
    for fields in ({"beam_size": "3"}, {"vad_filter": "true"}, {"languages": [1]}, {"url": 1}, {"patience": "1"}):
        response = await client.post("/transcribe/url", json={"url": URL, **fields})
        assert (response.status_code, response.json()["code"]) == (422, "validation_error"), fields

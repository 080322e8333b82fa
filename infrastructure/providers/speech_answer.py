"""What a speech server answers, as a Transcript: the objects of OpenAI's API and of whisper-asr-webservice."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from domain.caveat import Caveat
from domain.errors import BadResponse, InvalidRequest
from domain.languages import language_code
from domain.transcription import Segment, Transcript, TranscriptionRequest, Word

Json = Mapping[str, Any]

MAX_SEGMENTS = 100_000

# Some servers write a segment as a row; these are its first columns.
_ROW = ("id", "seek", "start", "end", "text", "tokens", "temperature", "avg_logprob", "compression_ratio")


def transcript_in(answer: Json, request: TranscriptionRequest, seconds: float) -> Transcript:
    """The transcript in `answer`, which took `seconds`. Raises BadResponse for what cannot be read.

    What the server does not tell is 0, its language's probability too; a language that is not known here is none, with
    a caveat. Without a duration of its own the recording ends with its last segment. Where text and segments differ,
    the segments are what was heard.
    """
    segments = _with_words(_joining(_segments(answer), _text(answer)), answer.get("words"))
    language, caveats = _language(answer, request)
    duration = max(_number(answer, "duration"), segments[-1].end if segments else 0.0)
    return Transcript(
        text="".join(segment.text for segment in segments).strip(),
        language=language if segments else None,
        language_probability=_probability(answer, request) if segments and language else 0.0,
        duration=duration,
        duration_after_vad=duration,
        segments=segments,
        task=request.task,
        processing_time=seconds,
        device="remote",
        warnings=caveats,
    )


def _text(answer: Json) -> str:
    text = answer.get("text") or ""
    if not isinstance(text, str):
        raise BadResponse("the text of the provider's answer is no text")
    return text.strip()


def _segments(answer: Json) -> tuple[Segment, ...]:
    """One segment for a text that has none."""
    told = answer.get("segments")
    if told is None:
        if "text" not in answer:
            raise BadResponse("the provider's answer holds neither text nor segments")
        text = _text(answer)
        return (_segment(0, {"text": text, "end": _number(answer, "duration")}),) if text else ()
    if not isinstance(told, list) or len(told) > MAX_SEGMENTS:
        raise BadResponse("the segments of the provider's answer are no list, or too long a one")
    return tuple(_segment(number, _as_object(one)) for number, one in enumerate(told))


def _as_object(told: object) -> Json:
    if isinstance(told, list) and len(told) >= len(_ROW):
        # Behind the columns that are alike everywhere; the words are where a list of rows stands.
        words = next((part for part in told[len(_ROW) :] if isinstance(part, list)), [])
        return {**dict(zip(_ROW, told, strict=False)), "words": words}
    if isinstance(told, Mapping):
        return told
    raise BadResponse("a segment of the provider's answer is no object")


def _segment(number: int, told: Json) -> Segment:
    text = told.get("text")
    if not isinstance(text, str):
        raise BadResponse("a segment of the provider's answer has no text")
    start = _number(told, "start")
    end = max(start, _number(told, "end"))
    return Segment(
        id=number,
        start=start,
        end=end,
        text=text,
        avg_logprob=_number(told, "avg_logprob"),
        no_speech_prob=_number(told, "no_speech_prob"),
        compression_ratio=_number(told, "compression_ratio"),
        temperature=_number(told, "temperature"),
        words=_words(told.get("words"), start, end),
    )


def _joining(segments: tuple[Segment, ...], text: str) -> tuple[Segment, ...]:
    """The segments with texts that join to `text`: some servers strip each, which in Chinese is right."""
    if "".join(segment.text for segment in segments).strip() == text:
        return segments
    return tuple(replace(segment, text=f" {segment.text.strip()}") for segment in segments)


def _words(told: object, start: float, end: float) -> tuple[Word, ...]:
    """Words between `start` and `end`; one that could not be timed is where the one before it ended."""
    if told is None:
        return ()
    if not isinstance(told, list):
        raise BadResponse("the words of the provider's answer are no list")
    words: list[Word] = []
    for one in told:
        if isinstance(one, list) and len(one) >= 4:
            one = dict(zip(("start", "end", "word", "probability"), one, strict=False))
        if not isinstance(one, Mapping) or not isinstance(text := one.get("word"), str):
            raise BadResponse("a word of the provider's answer cannot be read")
        begins = _number(one, "start", words[-1].end if words else start)
        probability = _number(one, "probability", _number(one, "score"))
        raw = text if text.startswith(" ") else f" {text}"
        words.append(Word(raw, begins, max(begins, _number(one, "end", min(begins, end))), min(1.0, probability)))
    return tuple(words)


def _with_words(segments: tuple[Segment, ...], told: object) -> tuple[Segment, ...]:
    """The segments with the words that stand in a list of their own, each in the segment that it begins in."""
    if not told or not segments or any(segment.words for segment in segments):
        return segments
    words = _words(told, segments[0].start, segments[-1].end)
    shared: list[list[Word]] = [[] for _ in segments]
    at = 0
    for word in words:
        while at + 1 < len(segments) and word.start >= segments[at + 1].start:
            at += 1
        shared[at].append(word)
    return tuple(replace(segment, words=tuple(part)) for segment, part in zip(segments, shared, strict=True))


def _language(answer: Json, request: TranscriptionRequest) -> tuple[str | None, tuple[Caveat, ...]]:
    told = answer.get("language")
    if not isinstance(told, str):
        return request.language, ()
    try:
        return language_code(told) or request.language, ()
    except InvalidRequest:
        return request.language, (Caveat("language_unknown", "the provider names a language that is not known here"),)


def _probability(answer: Json, request: TranscriptionRequest) -> float:
    return 1.0 if request.language is not None else min(1.0, max(0.0, _number(answer, "language_probability")))


def _number(where: Json, name: str, default: float = 0.0) -> float:
    """A number that is told, or `default`. Raises BadResponse for one that is none."""
    value = where.get(name)
    if value is None:
        return default
    # OpenAI's own library tells the duration as a text.
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise BadResponse(f"{name} in the provider's answer is no number") from None
    if type(value) not in (int, float) or not math.isfinite(value):
        raise BadResponse(f"{name} in the provider's answer is no number")
    return float(value)

"""A transcript as bodies: what the dialects share, and what /transcribe adds."""

import asyncio
from collections.abc import Mapping
from math import ceil
from typing import Any

from starlette.responses import Response

from api.answers import json_answer
from api.speech_options import TranscribeOptions
from domain.caveat import Caveat
from domain.languages import LANGUAGES
from domain.subtitles import SubtitleFormat, render
from domain.transcription import Segment, Transcript, Word


def segment_body(segment: Segment, *, raw_text: bool = False, with_words: bool = False) -> dict[str, Any]:
    """One segment; its text is stripped except in streams, whose texts join to the whole."""
    body: dict[str, Any] = {
        "id": segment.id,
        "start": round(segment.start, 2),
        "end": round(segment.end, 2),
        "text": segment.text if raw_text else segment.text.strip(),
        "avg_logprob": round(segment.avg_logprob, 4),
        "no_speech_prob": round(segment.no_speech_prob, 4),
        "compression_ratio": round(segment.compression_ratio, 4),
        "temperature": segment.temperature,
    }
    if segment.language is not None:
        body["language"] = segment.language
    if segment.channel is not None:
        body["channel"] = segment.channel
    return {**body, "words": [word_body(word) for word in segment.words]} if with_words else body


def verbose_segment_body(segment: Segment) -> dict[str, Any]:
    """One segment of `verbose_json`."""
    return {**segment_body(segment), "seek": segment.seek, "tokens": list(segment.tokens)}


def word_body(word: Word) -> dict[str, Any]:
    """One word."""
    return {
        "word": word.text.strip(),
        "start": round(word.start, 2),
        "end": round(word.end, 2),
        "probability": round(word.probability, 4),
    }


def json_body(transcript: Transcript, options: TranscribeOptions, model: str, request_id: str) -> dict[str, Any]:
    """The body of the format `json`; `model` is the name that was asked for."""
    segments = None
    if options.wants_segments:
        segments = [segment_body(segment, with_words=options.word_timestamps) for segment in transcript.segments]
    return {
        "text": transcript.text,
        "language": transcript.language,
        "duration": round(transcript.duration, 2),
        "processing_time": round(transcript.processing_time, 3),
        "segments": segments,
        "queue_wait_time": round(transcript.queue_time, 3),
        "language_probability": round(transcript.language_probability, 4),
        "duration_after_vad": round(transcript.duration_after_vad, 2),
        "speed": _speed(transcript),
        "task": transcript.task.value,
        "model": model,
        "device": transcript.device,
        "compute_type": transcript.compute_type,
        "warnings": [caveat_body(caveat) for caveat in transcript.warnings],
        "usage": usage_body(transcript),
        "request_id": request_id,
    }


def verbose_body(transcript: Transcript, options: TranscribeOptions, model: str, request_id: str) -> dict[str, Any]:
    """The body of the format `verbose_json`: the language by its English name, segments and words as two lists."""
    return {
        **json_body(transcript, options, model, request_id),
        "language": english_name(transcript.language),
        "segments": [verbose_segment_body(segment) for segment in transcript.segments],
        "words": [word_body(word) for segment in transcript.segments for word in segment.words],
    }


def caveat_body(caveat: Caveat) -> dict[str, Any]:
    """One entry of a list of warnings."""
    body = {"code": caveat.code, "message": caveat.message}
    return body if caveat.count is None else {**body, "count": caveat.count}


async def content_of(
    transcript: Transcript, options: TranscribeOptions, model: str, request_id: str
) -> dict[str, Any] | str:
    """What the caller asked for: an object for the JSON formats, else a text."""
    if options.response_format == "json":
        return json_body(transcript, options, model, request_id)
    if options.response_format == "verbose_json":
        return verbose_body(transcript, options, model, request_id)
    return await rendered(transcript, options)


async def rendered(transcript: Transcript, options: TranscribeOptions) -> str:
    """The transcript as a text in the format that the caller asked for."""
    # Shaping the cues of some hours takes longer than the event loop may be held up.
    return await asyncio.to_thread(render, transcript, SubtitleFormat(options.response_format), options.cue_options())


async def answer_of(transcript: Transcript, options: TranscribeOptions, model: str, request_id: str) -> Response:
    """The response in the format that the caller asked for."""
    content = await content_of(transcript, options, model, request_id)
    if not isinstance(content, str):
        return json_answer(content)
    return text_answer(transcript, content, options)


def text_answer(
    transcript: Transcript, content: str, options: TranscribeOptions, headers: Mapping[str, str] | None = None
) -> Response:
    """The response with what `rendered` gave; what its body has no place for stands in its headers."""
    media_type = SubtitleFormat(options.response_format).media_type
    return Response(content.encode(), headers={**_figures(transcript), **(headers or {}), "content-type": media_type})


def usage_body(transcript: Transcript) -> dict[str, Any]:
    """What is to be paid: seconds, rounded up."""
    return {"type": "duration", "seconds": ceil(transcript.duration)}


def _figures(transcript: Transcript) -> Mapping[str, str]:
    """What a body that is not JSON has no place for."""
    return {
        "x-language": transcript.language or "",
        "x-audio-duration": f"{transcript.duration:.2f}",
        "x-processing-time": f"{transcript.processing_time:.3f}",
        "x-warnings": ",".join(caveat.code for caveat in transcript.warnings),
    }


def english_name(code: str | None) -> str | None:
    """The name of a language, in lower case as OpenAI writes it."""
    return None if code is None else LANGUAGES.get(code, code).lower()


def _speed(transcript: Transcript) -> float | None:
    if transcript.processing_time <= 0:
        return None
    return round(transcript.duration / transcript.processing_time, 2)

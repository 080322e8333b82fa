"""Transcription as a use case: take a lease, pass the events on, say what happened."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from application.events import Publish, TranscriptionFinished, WorkCancelled
from application.model_pool import ModelPool
from application.ports import Clock
from domain.errors import GenerationFailed, RequestCancelled
from domain.model import Model, Task
from domain.transcription import (
    DetectedLanguage,
    DetectionRequest,
    SpeechQueue,
    Transcript,
    TranscriptionEvent,
    TranscriptionRequest,
)


@dataclass(frozen=True, slots=True)
class TranscriptionStarted:
    """The model is in memory and has the request: the first thing that a stream yields."""

    model: Model
    queue_position: int
    load_seconds: float
    queue: SpeechQueue = field(default_factory=SpeechQueue)


@dataclass(frozen=True, slots=True)
class Detection:
    """The language of a recording, and the model that heard it."""

    model: Model
    heard: DetectedLanguage


@dataclass(frozen=True, slots=True)
class Transcription:
    """A recording written down to its end."""

    started: TranscriptionStarted
    transcript: Transcript


class TranscribeAudio:
    """Write down recordings, in pieces or at once, under a lease of the model."""

    def __init__(self, pool: ModelPool, clock: Clock, publish: Publish) -> None:
        self._pool = pool
        self._clock = clock
        self._publish = publish

    async def stream(
        self, model_name: str, audio: Path, request: TranscriptionRequest, *, keep_alive: float | None = None
    ) -> AsyncGenerator[TranscriptionStarted | TranscriptionEvent, None]:
        """Yield TranscriptionStarted, then what the model hears in the file `audio`; the Transcript is last.

        Closing this generator ends the work and the lease; the file may go as soon as it has ended.
        """
        asked_at = self._clock.monotonic()
        async with self._pool.lend(
            model_name, Task.SPEECH, keep_alive=keep_alive, request_id=request.request_id
        ) as model:
            load_seconds = self._clock.monotonic() - asked_at
            finished = False
            try:
                yield TranscriptionStarted(model.info, model.waiting, load_seconds, model.queue)
                async with aclosing(model.transcribe(audio, request)) as events:
                    async for event in events:
                        if isinstance(event, Transcript):
                            finished = True
                            self._finish(model.info.id, request, event, load_seconds)
                        yield event
            except (GeneratorExit, asyncio.CancelledError, RequestCancelled):
                if not finished:
                    self._publish(WorkCancelled(model.info.id, request.request_id))
                raise

    def _finish(
        self, model_id: str, request: TranscriptionRequest, transcript: Transcript, load_seconds: float
    ) -> None:
        self._pool.requests.finished(request.request_id, load_seconds + transcript.queue_time)
        self._publish(
            TranscriptionFinished(model_id, request.request_id, transcript.duration, transcript.processing_time)
        )

    async def complete(
        self, model_name: str, audio: Path, request: TranscriptionRequest, *, keep_alive: float | None = None
    ) -> Transcription:
        """The whole transcript at once; cancelling the awaiting task ends the work."""
        started: TranscriptionStarted | None = None
        async with aclosing(self.stream(model_name, audio, request, keep_alive=keep_alive)) as events:
            async for event in events:
                if isinstance(event, TranscriptionStarted):
                    started = event
                elif isinstance(event, Transcript) and started is not None:
                    return Transcription(started, event)
        raise GenerationFailed("the model's stream ended without a transcript")

    async def detect_language(
        self, model_name: str, audio: Path, request: DetectionRequest, *, keep_alive: float | None = None
    ) -> Detection:
        """Which language is spoken in the file `audio`; cancelling the awaiting task ends the work."""
        async with self._pool.lend(
            model_name, Task.SPEECH, keep_alive=keep_alive, request_id=request.request_id
        ) as model:
            try:
                heard = await model.detect_language(audio, request)
                self._pool.requests.finished(request.request_id, 0.0)
                return Detection(model.info, heard)
            except (asyncio.CancelledError, RequestCancelled):
                self._publish(WorkCancelled(model.info.id, request.request_id))
                raise

"""A speech model of a provider that speaks OpenAI's API or that of whisper-asr-webservice."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from domain.errors import DeadlineExceeded, UnsupportedCapability
from domain.transcription import (
    DetectedLanguage,
    DetectionRequest,
    LanguageHeard,
    Progress,
    SpeechQueue,
    TranscriptionEvent,
    TranscriptionRequest,
)
from infrastructure.providers.exchange import Call
from infrastructure.providers.remote_model import RemoteModel
from infrastructure.providers.speech_answer import transcript_in
from infrastructure.providers.speech_request import speech_call_to
from infrastructure.providers.work import DeadlinePassed


class ProvidedSpeechModel(RemoteModel):
    """Implements `application.ports.SpeechModel`, as far as the provider's words reach.

    * What those words cannot say is refused by name before anything is sent; its beam and its voice detector are its
      own.
    * It answers in one piece: the first event comes with the last. Languages are not detected by themselves.
    * Raises what Connection does.
    """

    @property
    def queue(self) -> SpeechQueue:
        """How many requests are under way; how much sound that is, only the provider knows."""
        return SpeechQueue(active_requests=self._calls.waiting)

    async def transcribe(self, audio: Path, request: TranscriptionRequest) -> AsyncGenerator[TranscriptionEvent, None]:
        """Answer by asking the provider. Closing the generator closes the connection to it."""
        said = speech_call_to(self._provided, audio, request)
        total = self._provided.provider.patience.total
        seconds = total if request.timeout_seconds is None else min(total, request.timeout_seconds)
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        with self._calls.one_more(seconds) as work:
            try:
                answer = await self._connection.answer(Call(said.path, said.form, work, request.request_id))
            except DeadlinePassed:
                raise DeadlineExceeded from None
            transcript = await asyncio.to_thread(transcript_in, answer, request, loop.time() - asked_at)
            yield Progress(0.0, transcript.duration)
            if transcript.segments and transcript.language is not None:
                yield LanguageHeard(transcript.language, transcript.language_probability)
            for segment in transcript.segments:
                yield segment
            yield Progress(transcript.duration, transcript.duration)
            yield transcript

    async def detect_language(self, audio: Path, request: DetectionRequest) -> DetectedLanguage:  # noqa: ARG002
        """Refused."""
        raise UnsupportedCapability(
            f"model '{self._info.id}' lies with another server: it tells the language with the text only", field="model"
        )

"""The speech engine as its callers meet it: recordings in, events out, many requests at once."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from domain.errors import DeadlineExceeded, GenerationFailed, IngleError, NotOffered, Overloaded, RequestCancelled
from domain.model import Model
from domain.transcription import (
    Caveat,
    DetectedLanguage,
    DetectionRequest,
    Progress,
    SpeechQueue,
    Transcript,
    TranscriptionEvent,
    TranscriptionRequest,
)
from models import memory
from models.inference_thread import InferenceThread
from models.speech.abilities import Abilities
from models.speech.decoder import AudioDecoder, Recording
from models.speech.recognizer import Recognizer

T = TypeVar("T")


class WhisperEngine:
    """Implements `application.ports.SpeechModel` with one owner thread.

    Requests take turns on the thread, one step each (at most the decoding of one window), so a short clip does
    not wait for the end of a long one, and nobody waits for somebody who has left.
    """

    def __init__(
        self,
        info: Model,
        recognizer: Recognizer,
        abilities: Abilities,
        decoder: AudioDecoder,
        thread: InferenceThread,
        *,
        compute_type: str,
        caveats: tuple[Caveat, ...] = (),
        max_waiting: int = 512,
    ) -> None:
        """`caveats` are true of every answer; `max_waiting` requests may wait before more are refused."""
        self._info = info
        self._recognizer = recognizer
        self._abilities = abilities
        self._decoder = decoder
        self._thread = thread
        self._compute_type = compute_type
        self._caveats = caveats
        self._max_waiting = max_waiting
        self._works: set[_Work] = set()
        self._aborted = False

    @property
    def info(self) -> Model:
        """The entity."""
        return self._info

    @property
    def waiting(self) -> int:
        """How many requests are admitted and have not reached the model."""
        return sum(work.began_at is None for work in self._works)

    @property
    def queue(self) -> SpeechQueue:
        """What is to be done."""
        return SpeechQueue(active_requests=len(self._works))

    async def detect_language(self, audio: Path, request: DetectionRequest) -> DetectedLanguage:  # noqa: ARG002
        """Tell which language is spoken in `audio`."""
        raise NotOffered("this model does not tell languages without transcribing")

    async def transcribe(self, audio: Path, request: TranscriptionRequest) -> AsyncGenerator[TranscriptionEvent, None]:
        """Write down what is said in `audio`; see `application.ports.SpeechModel` for the contract.

        Raises DeadlineExceeded also after the first event: what was written by then has been yielded.
        """
        language = self._abilities.language_for(request)
        if self.waiting >= self._max_waiting:
            raise Overloaded(f"the server is busy: {self.waiting} recordings are waiting already")
        work = _Work(request.timeout_seconds)
        if self._aborted:
            work.abort()
        self._works.add(work)
        try:
            recording = await work.wait_for(self._decoder.decode(audio))
            decoded_at = time.monotonic()
            yield Progress(0.0, recording.seconds)
            events = self._recognizer.listen(recording, request, language)
            step = _stepper(events, work)
            try:
                while (event := await work.wait_for(self._thread.submit(step))) is not None:
                    if isinstance(event, Transcript):
                        assert work.began_at is not None
                        event = self._complete(event, recording, work.began_at - decoded_at)
                    yield event
            finally:
                self._thread.call_soon(events.close)
        finally:
            self._works.discard(work)

    def _complete(self, transcript: Transcript, recording: Recording, queue_time: float) -> Transcript:
        return replace(
            transcript,
            queue_time=queue_time,
            device=self._info.device,
            compute_type=self._compute_type,
            warnings=(*self._caveats, *recording.caveats, *transcript.warnings),
        )

    def abort(self) -> None:
        """End all work, for good: every generator, open or yet to be opened, raises RequestCancelled."""
        self._aborted = True
        for work in self._works:
            work.abort()

    def close(self) -> None:
        """Give the memory back: weights first, then what the allocator kept. No generator may be open.

        Blocks until the step under way, if a caller left one behind, has ended.
        """
        try:
            self._thread.call_soon(self._recognizer.close).result()
        finally:
            self._thread.close()
        memory.trim()


def _stepper(events: Iterator[TranscriptionEvent], work: "_Work") -> Callable[[], TranscriptionEvent | None]:
    """One step of `events` for the owner thread: the next event, None after the last."""

    def step() -> TranscriptionEvent | None:
        work.began_at = work.began_at or time.monotonic()
        try:
            return next(events, None)
        except IngleError:
            raise
        except Exception as error:
            raise GenerationFailed(f"the speech model failed on this recording: {error}") from error

    return step


class _Work:
    """One request on its way: it ends early by its deadline, by `abort`, or with its caller."""

    def __init__(self, timeout: float | None) -> None:
        self.began_at: float | None = None
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._aborted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def abort(self) -> None:
        """Let whoever waits raise RequestCancelled."""
        if not self._aborted.done():
            self._aborted.set_result(None)

    async def wait_for(self, awaitable: Awaitable[T]) -> T:
        """The result of `awaitable`, which is cancelled when the work ends early.

        Raises DeadlineExceeded, RequestCancelled and what `awaitable` raises.
        """
        future: asyncio.Future[T] = asyncio.ensure_future(awaitable)
        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        try:
            await asyncio.wait((future, self._aborted), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if self._aborted.done():
                raise RequestCancelled("the model was unloaded while this request ran")
            if not future.done():
                raise DeadlineExceeded("the deadline passed before the whole recording was written down")
        except BaseException:
            future.cancel()
            # Its own failure, if it comes first, has nobody to go to.
            await asyncio.gather(future, return_exceptions=True)
            raise
        return future.result()

"""The speech engine as its callers meet it: recordings in, events out, many requests at once."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from domain.caveat import Caveat
from domain.errors import IngleError, Overloaded
from domain.model import Model
from domain.transcription import (
    DetectedLanguage,
    DetectionRequest,
    Progress,
    SpeechQueue,
    TranscriptionEvent,
    TranscriptionRequest,
)
from models import memory
from models.giving_way import give_way
from models.inference_thread import InferenceThread
from models.speech.abilities import Abilities
from models.speech.call import Call
from models.speech.decoder import AudioDecoder
from models.speech.feed import quietest_of, sound_of, windows_of
from models.speech.flow import MAX_PROMPT_TOKENS, Flow
from models.speech.language_flow import LanguageFlow
from models.speech.language_vote import likeliest
from models.speech.listener import Listener, Told, Work
from models.speech.options import EngineOptions
from models.speech.recording import Recording
from models.speech.teller import Teller
from models.speech.whisper import Ears
from models.speech.windows import SAMPLE_RATE, Window

_LEAST_OPEN_WINDOWS = 4
"""A language that is in doubt takes the first three."""
_CANDIDATES = 5
_DETECTORS = 2


class WhisperEngine:
    """Implements `application.ports.SpeechModel` with one owner thread, whose batches serve all requests."""

    def __init__(
        self,
        info: Model,
        ears: Ears,
        abilities: Abilities,
        decoder: AudioDecoder,
        thread: InferenceThread,
        *,
        options: EngineOptions,
    ) -> None:
        """`options` are those of the device. Raises ValueError for sizes that are still to be decided."""
        if options.rows < 1 or options.window_seconds <= 0:
            raise ValueError("the device decides how much a batch and a window hold: take EngineOptions.on")
        self._info = info
        self._listener = Listener(ears, max_rows=options.rows, wait_seconds=options.batch_wait_seconds)
        self._abilities = abilities
        self._decoder = decoder
        self._thread = thread
        self._options = options
        self._calls: set[Call] = set()
        self._aborted = False
        # On a CPU the detector takes the cores from others too.
        is_polite = info.device == "cpu"
        self._detecting = ThreadPoolExecutor(_DETECTORS, "voice-detector", give_way if is_polite else None)
        thread.attach(self._listener)

    @property
    def info(self) -> Model:
        """The entity."""
        return self._info

    @property
    def waiting(self) -> int:
        """How many requests are admitted and have not reached the model."""
        return sum(call.work is None or call.work.began_at is None for call in self._calls)

    @property
    def queue(self) -> SpeechQueue:
        """What is to be done."""
        return SpeechQueue(
            active_requests=len(self._calls),
            waiting_windows=self._listener.waiting_windows,
            waiting_audio_seconds=sum(call.seconds_left for call in self._calls),
            last_batch_rows=self._listener.last_rows,
            real_time_factor=self._listener.speed,
        )

    async def transcribe(self, audio: Path, request: TranscriptionRequest) -> AsyncGenerator[TranscriptionEvent, None]:
        """Write down what is said in `audio`; see `application.ports.SpeechModel` for the contract.

        Raises DeadlineExceeded also after the first event: what was written by then has been yielded.
        """
        language = self._abilities.language_for(request)
        prompt, caveats = self._prompt(request)
        call = self._admit(request.timeout_seconds)
        recording: Recording | None = None
        try:
            recording = self._decoder.open(audio, request.channel)
            await call.wait_for(recording.wait_beyond(SAMPLE_RATE))
            self._check_room(call, recording)
            yield Progress(0.0, *recording.total)
            opened_at = time.monotonic()
            held: Recording = recording
            flow = Flow(
                request,
                language,
                prompt,
                lambda channel, low, high: quietest_of(held, channel, low, high),
                short_windows=self._options.short_windows,
            )
            teller = Teller(request, flow, recording)
            async for told in self._told(call, flow, recording, request):
                call.seconds_left = teller.seconds_left(told)
                for event in teller.events(told):
                    yield event
            assert call.work is not None
            yield teller.transcript(
                began_at=call.work.began_at,
                opened_at=opened_at,
                device=self._info.device,
                compute_type=self._info.compute_type,
                caveats=(*self._info.caveats, *recording.caveats, *caveats),
            )
        finally:
            self._calls.discard(call)
            if recording is not None:
                recording.close()

    async def detect_language(self, audio: Path, request: DetectionRequest) -> DetectedLanguage:
        """Tell which language is spoken in `audio`; see `application.ports.SpeechModel` for the contract."""
        self._abilities.check_languages(request.languages)
        call = self._admit(request.timeout_seconds)
        recording: Recording | None = None
        try:
            recording = self._decoder.open(audio)
            await call.wait_for(recording.wait_beyond(SAMPLE_RATE))
            self._check_room(call, recording)
            await call.wait_for(recording.wait_for_all())
            windows = await call.wait_for(self._spread(recording, request))
            if windows and self._abilities.only_language is not None:
                return DetectedLanguage(((self._abilities.only_language, 1.0),), len(windows), recording.seconds)
            flow = LanguageFlow(request)
            async with self._entered(call, flow, recording) as (work, told):
                for window in windows:
                    self._listener.add(work, window)
                self._wake()
                while len(flow.heard) < len(windows):
                    await call.next(told)
            candidates = likeliest(flow.heard, request.languages)[:_CANDIDATES] if windows else []
            return DetectedLanguage(tuple(candidates), len(windows), recording.seconds)
        finally:
            self._calls.discard(call)
            if recording is not None:
                recording.close()

    async def _told(
        self, call: Call, flow: Flow, recording: Recording, request: TranscriptionRequest
    ) -> AsyncGenerator[Told, None]:
        """What the owner thread says of the request, until everything is said."""
        async with self._entered(call, flow, recording) as (work, told):
            feeding = asyncio.ensure_future(self._feed(work, recording, request, call))
            try:
                what = Told()
                while not what.is_last:
                    what = await call.next(told, feeding)
                    yield what
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)

    async def _feed(self, work: Work, recording: Recording, request: TranscriptionRequest, call: Call) -> None:
        """Windows for the owner thread, never more than two batches of them at a time."""
        limit = max(2 * self._listener.max_rows, _LEAST_OPEN_WINDOWS)
        async with aclosing(
            windows_of(recording, request.vad, request.clips, self._options.window_seconds, self._detecting)
        ) as windows:
            async for window in windows:
                while work.flow.open_windows >= limit:
                    await call.progress()
                self._listener.add(work, window)
                self._wake()
        self._listener.end(work)
        self._wake()

    @asynccontextmanager
    async def _entered(
        self, call: Call, flow: Flow, recording: Recording
    ) -> "AsyncGenerator[tuple[Work, asyncio.Queue[Told]], None]":
        told: asyncio.Queue[Told] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(what: Told) -> None:
            # The loop may have ended under a batch that nobody waits for.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(told.put_nowait, what)

        work = Work(flow, lambda window: sound_of(recording, window), tell)
        call.work = work
        self._listener.enter(work)
        try:
            yield work, told
        finally:
            self._listener.leave(work)

    def _wake(self) -> None:
        """Now, for a thread that is at work or has a full batch; and when an idle one has waited long enough."""
        self._thread.wake()
        asyncio.get_running_loop().call_later(self._options.batch_wait_seconds, self._hurry)

    def _hurry(self) -> None:
        # The loop's clock is not the queue's and may run ahead of it: the timer decides, and there is no other.
        self._listener.hurry()
        self._thread.wake()

    async def _spread(self, recording: Recording, request: DetectionRequest) -> list[Window]:
        """As many windows as are asked for, from the first to the last of the recording."""
        async with aclosing(
            windows_of(recording, request.vad, (), self._options.window_seconds, self._detecting)
        ) as windows:
            found = [window async for window in windows]
        if request.windows == 1 or len(found) <= request.windows:
            return found[: request.windows]
        return [found[round(i * (len(found) - 1) / (request.windows - 1))] for i in range(request.windows)]

    def _prompt(self, request: TranscriptionRequest) -> tuple[tuple[int, ...], tuple[Caveat, ...]]:
        """Hot words and prompt as tokens, the last of them if they are too many."""
        text = " ".join(filter(None, (request.hotwords.strip(), request.prompt.strip())))
        tokens = tuple(self._listener.ears.tokens(text))
        if len(tokens) <= MAX_PROMPT_TOKENS:
            return tokens, ()
        message = f"hot words and prompt have {len(tokens)} tokens: the last {MAX_PROMPT_TOKENS} were used"
        return tokens[-MAX_PROMPT_TOKENS:], (Caveat("prompt_truncated", message),)

    def _admit(self, timeout: float | None) -> Call:
        if self.waiting >= self._options.max_waiting:
            raise Overloaded(f"the server is busy: {self.waiting} recordings are waiting already")
        call = Call(timeout)
        if self._aborted:
            call.abort()
        self._calls.add(call)
        return call

    def _check_room(self, call: Call, recording: Recording) -> None:
        """Refuse a recording beyond the audio that may wait; by the file's claim until its length is known."""
        call.seconds_left = recording.total[0] or recording.seconds
        others = self.queue.waiting_audio_seconds - call.seconds_left
        if others > 0 and others + call.seconds_left > self._options.max_waiting_audio_seconds:
            raise Overloaded(
                f"the server is busy: {others:.0f} seconds of audio are waiting already",
                retry_after_seconds=max(1.0, self.queue.eta_seconds or 1.0),
            )

    def abort(self, error: IngleError | None = None) -> None:
        """End all work, for good: every generator, open or yet to be opened, raises RequestCancelled.

        Those that are open raise `error` instead, if there is one.
        """
        self._aborted = True
        for call in self._calls:
            call.abort(error)

    def suspend(self, *, to_host: bool = False) -> None:
        """Give the weights' memory back after the batch under way; open generators wait for `resume`. Blocks.

        With `to_host` as `close` has it. Raises IngleError if they stay, and then the engine works on.
        """
        self._thread.call_soon(lambda: self._listener.suspend(to_host=to_host)).result()
        memory.trim()

    def resume(self, fresh: "WhisperEngine") -> None:
        """Go on with the weights of `fresh`, the same model loaded anew, which is of no use afterwards. Blocks."""
        theirs = fresh._listener
        self._thread.call_soon(lambda: self._listener.resume(theirs.ears, theirs.max_rows)).result()
        fresh._thread.close()
        fresh._detecting.shutdown()
        self._info, self._options = fresh._info, fresh._options

    def close(self, *, to_host: bool = False) -> None:
        """Give the memory back: weights first, then what the allocator kept. No generator may be open.

        With `to_host` weights on a GPU wait in the machine's own memory for the next load.
        Blocks until the batch under way, if a caller left one behind, has ended.
        """
        try:
            self._thread.call_soon(lambda: self._listener.close(to_host=to_host)).result()
        finally:
            self._thread.close()
            self._detecting.shutdown()
        memory.trim()

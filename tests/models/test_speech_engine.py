"""The engine around scripted ears: batches, languages, the guard, cancellation, deadlines. No weights are needed."""

import asyncio
import io
import wave
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest

from domain.caveat import Caveat
from domain.cue_options import CueOptions
from domain.errors import (
    AudioRefused,
    DeadlineExceeded,
    EmptyAudio,
    GenerationFailed,
    InsufficientMemory,
    InvalidRequest,
    Overloaded,
    RequestCancelled,
    UnsupportedCapability,
)
from domain.listening import DecodingOptions, GuardOptions, VadOptions
from domain.model import Model, ModelSpec, Task, WeightFormat
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
from models import memory
from models.inference_thread import InferenceThread
from models.speech.abilities import Abilities
from models.speech.decoder import AudioDecoder
from models.speech.engine import WhisperEngine
from models.speech.options import EngineOptions
from tests.models.scripted_ears import RATE, Asked, ScriptedEars, counting, said

SPEC = ModelSpec("ear:base", "Ear", Task.SPEECH, WeightFormat.CTRANSLATE2)
EVERYTHING = VadOptions(enabled=False)


def wav(*channels: npt.NDArray[np.int16]) -> bytes:
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.stack(channels, axis=1).tobytes())
    return target.getvalue()


class Stage:
    """An engine, what it runs on, and recordings for it: `seconds` of sound that tells its second."""

    def __init__(
        self,
        folder: Path,
        decoder: AudioDecoder,
        options: EngineOptions,
        caveats: tuple[Caveat, ...] = (),
        languages: str = "en de",
    ) -> None:
        self.folder = folder
        self.ears = ScriptedEars()
        self.decoder = decoder
        self.thread = InferenceThread("speech test")
        self.engine = WhisperEngine(
            Model(SPEC).loaded(
                device="cpu",
                dtype="float32",
                quantization="int8",
                context_length=0,
                memory_bytes=1,
                load_time_ms=1,
                compute_type="int8_float32",
                caveats=caveats,
            ),
            self.ears,
            Abilities("ear:base", frozenset(languages.split()), translates=False),
            self.decoder,
            self.thread,
            options=options,
        )

    def upload(self, data: bytes) -> Path:
        path = self.folder / f"input-{len(list(self.folder.iterdir()))}.bin"
        path.write_bytes(data)
        return path

    def listen(self, seconds: int = 3, first: int = 1, **wishes: object) -> AsyncGenerator[TranscriptionEvent, None]:
        return self.listen_to(wav(counting(seconds, first)), **wishes)

    def listen_to(self, data: bytes, **wishes: object) -> AsyncGenerator[TranscriptionEvent, None]:
        request = TranscriptionRequest(**{"vad": EVERYTHING, "language": "en", **wishes})  # type: ignore[arg-type]
        return self.engine.transcribe(self.upload(data), request)

    async def transcript(self, seconds: int = 3, first: int = 1, **wishes: object) -> Transcript:
        return await last(self.listen(seconds, first, **wishes))

    async def in_a_batch(self) -> None:
        """Until the thread stands before the shut gate."""
        await asyncio.to_thread(self.ears.at_gate.acquire)

    async def until(self, true: Callable[[], bool]) -> None:
        while not true():  # noqa: ASYNC110 -- what is waited for tells nobody
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        self.ears.gate.set()
        assert self.engine.waiting == 0
        await asyncio.to_thread(self.engine.close)
        assert self.ears.is_closed


async def last(events: AsyncGenerator[TranscriptionEvent, None]) -> Transcript:
    async with aclosing(events):
        found = [event async for event in events]
    assert isinstance(found[-1], Transcript)
    return found[-1]


OPTIONS = EngineOptions(rows=4, window_seconds=9.0, batch_wait_seconds=0.0)


@pytest.fixture(scope="module")
def decoder() -> Iterator[AudioDecoder]:
    decoder = AudioDecoder(processes=1)
    yield decoder
    decoder.close()


@pytest.fixture
async def stage(tmp_path: Path, decoder: AudioDecoder) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path, decoder, OPTIONS)
    yield stage
    await stage.close()


# -- what callers are told ----------------------------------------------------------------------------


async def test_segments_come_as_they_are_heard_and_the_transcript_last(stage: Stage) -> None:
    async with aclosing(stage.listen(20)) as events:
        found = [event async for event in events]
    assert found[0] == Progress(0.0, 20.0, estimated=True)
    assert found[1] == LanguageHeard("en", 1.0)
    segments = [event for event in found if isinstance(event, Segment)]
    assert [segment.text for segment in segments] == [" 1", " 5", " 9", " 13"]
    assert [segment.id for segment in segments] == [0, 1, 2, 3]
    assert all(one.end == pytest.approx(other.start) for one, other in pairwise(segments))
    transcript = found[-1]
    assert isinstance(transcript, Transcript)
    assert (transcript.text, transcript.device, transcript.compute_type) == ("1 5 9 13", "cpu", "int8_float32")
    assert (transcript.duration, transcript.duration_after_vad) == (20.0, 20.0)
    assert transcript.segments == tuple(segments)
    done = [event.processed for event in found if isinstance(event, Progress)]
    assert done == sorted(done)
    assert found[-2] == Progress(20.0, 20.0)


async def test_silence_is_an_empty_transcript(stage: Stage) -> None:
    async with aclosing(stage.listen_to(wav(np.zeros(3 * RATE, np.int16)), vad=VadOptions())) as events:
        found = [event async for event in events]
    assert [type(event) for event in found] == [Progress, Progress, Transcript]
    transcript = found[-1]
    assert isinstance(transcript, Transcript)
    assert (transcript.text, transcript.language, transcript.language_probability) == ("", None, 0.0)
    assert (transcript.duration, transcript.duration_after_vad, stage.ears.encoded) == (3.0, 0.0, [])


async def test_an_answer_carries_the_caveats_of_the_model_the_recording_and_the_request(
    tmp_path: Path, decoder: AudioDecoder
) -> None:
    stage = Stage(tmp_path, decoder, OPTIONS, caveats=(Caveat("compute_type_changed", ""),))
    stage.ears.answer = lambda asked: said(" x", asked.seconds)
    transcript = await last(stage.listen_to(wav(counting(3))[:-20_000], prompt="x" * 300))
    assert [caveat.code for caveat in transcript.warnings] == [
        "compute_type_changed", "audio_truncated", "prompt_truncated",
    ]  # fmt: skip
    assert len(stage.ears.decoded[0].prompt) == 223
    await stage.close()


async def test_without_timestamps_there_is_one_segment_a_window(stage: Stage) -> None:
    transcript = await stage.transcript(8, timestamps=False)
    assert [(one.start, one.end) for one in transcript.segments] == [(0.0, 8.0)]
    assert not stage.ears.decoded[0].key.timestamps


async def test_words_are_aligned_only_where_they_are_needed(stage: Stage) -> None:
    assert (await stage.transcript(3)).segments[0].words == ()
    await stage.transcript(3, cues=CueOptions())
    assert stage.ears.aligned == []
    await stage.transcript(8, cues=CueOptions())
    assert stage.ears.aligned == [[1]]
    assert (await stage.transcript(3, word_timestamps=True)).segments[0].words[0].text == " 1"


async def test_clips_are_all_that_is_heard(stage: Stage) -> None:
    transcript = await stage.transcript(20, clips=((2.0, 4.0), (10.0, 11.0)))
    assert transcript.duration_after_vad == 3.0
    assert stage.ears.encoded == [([3], 1000)]


async def test_split_channels_are_heard_each_by_itself_and_merged_by_time(stage: Stage) -> None:
    both = wav(counting(9), counting(9, first=101))
    transcript = await last(stage.listen_to(both, channel=Channel.SPLIT))
    assert [(one.channel, one.text) for one in transcript.segments] == [(0, " 1"), (1, " 101")]
    assert [one.id for one in transcript.segments] == [0, 1]
    assert (await last(stage.listen_to(both, channel=Channel.RIGHT))).text == "101"
    assert (await last(stage.listen_to(both, channel=Channel.LEFT))).text == "1"
    with pytest.raises(InvalidRequest, match="one channel") as refusal:
        await stage.transcript(3, channel=Channel.SPLIT)
    assert refusal.value.field == "channel"


# -- batches ------------------------------------------------------------------------------------------


async def test_requests_share_a_batch_and_each_gets_its_own_text(stage: Stage) -> None:
    stage.ears.gate.clear()
    first = asyncio.ensure_future(stage.transcript(3))
    await stage.in_a_batch()
    others = [
        asyncio.ensure_future(stage.transcript(3, first=10, prompt="a")),
        asyncio.ensure_future(stage.transcript(3, first=20, prompt="b", task=SpeechTask.TRANSCRIBE, language="de")),
    ]
    await stage.until(lambda: stage.engine.queue.waiting_windows == 2)
    assert (stage.engine.queue.active_requests, stage.engine.queue.waiting_audio_seconds) == (3, 9.0)
    stage.ears.gate.set()
    assert [one.text for one in await asyncio.gather(first, *others)] == ["1", "a10", "b20"]
    assert [len(seconds) for seconds, _ in stage.ears.encoded] == [1, 2]
    assert (stage.engine.queue.last_batch_rows, stage.engine.queue.waiting_audio_seconds) == (2, 0)
    assert stage.engine.queue.eta_seconds == 0.0


async def test_a_clip_does_not_wait_for_the_end_of_a_long_file(stage: Stage) -> None:
    stage.ears.gate.clear()
    long = asyncio.ensure_future(stage.transcript(100))
    await stage.in_a_batch()
    await stage.until(lambda: next(iter(stage.engine._calls)).work.flow.open_windows == 8)  # type: ignore[union-attr]
    waiting = stage.engine.queue.waiting_windows
    clip = asyncio.ensure_future(stage.transcript(3, first=500))
    await stage.until(lambda: stage.engine.queue.waiting_windows == waiting + 1)
    stage.ears.gate.set()
    await asyncio.gather(long, clip)
    assert 500 in stage.ears.encoded[1][0]


async def test_no_more_than_two_batches_of_windows_wait(stage: Stage) -> None:
    stage.ears.gate.clear()
    long = asyncio.ensure_future(stage.transcript(100))
    await stage.in_a_batch()
    await stage.until(lambda: stage.engine.queue.waiting_windows >= 4)
    await asyncio.sleep(0.05)
    assert stage.engine.queue.waiting_windows <= 8
    stage.ears.gate.set()
    assert (await long).text.split() == [str(second) for second in range(1, 101, 4)][: len((await long).segments)]


async def test_a_failing_batch_is_heard_row_by_row_and_only_the_culprit_fails(stage: Stage) -> None:
    def answer(asked: Asked) -> object:
        if asked.second == 20:
            raise RuntimeError("no such tensor")
        return said(f" {asked.second}", asked.seconds)

    stage.ears.answer = answer  # type: ignore[assignment]
    stage.ears.gate.clear()
    works = [asyncio.ensure_future(stage.transcript(3, first=first)) for first in (1, 10, 20, 30)]
    await stage.until(lambda: stage.engine.queue.waiting_windows == 3)
    stage.ears.gate.set()
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    texts = [one.text if isinstance(one, Transcript) else type(one) for one in outcomes]
    assert texts == ["1", "10", GenerationFailed, "30"]
    assert "no such tensor" in str(outcomes[2])


async def test_a_device_without_memory_gets_smaller_batches_for_good(stage: Stage) -> None:
    stage.ears.too_many = 2
    assert (await stage.transcript(30)).text.startswith("1 5 9")
    assert all(len(seconds) == 1 for seconds, _ in stage.ears.encoded[3:])
    stage.ears.too_many = 1
    with pytest.raises(InsufficientMemory):
        await stage.transcript(3)


async def test_a_long_recording_takes_bounded_memory(stage: Stage) -> None:
    audio = stage.upload(wav(counting(1800)))
    process = psutil.Process()
    memory.trim()
    before = most = process.memory_info().rss
    async with aclosing(stage.engine.transcribe(audio, TranscriptionRequest(language="en", vad=EVERYTHING))) as events:
        ends = [
            event.processed
            async for event in events
            if isinstance(event, Progress) and (most := max(most, process.memory_info().rss))
        ]
    assert ends[-1] == 1800.0
    # As samples from -1 to 1 the recording would take 110 MB.
    assert most - before < 50 << 20


# -- language -----------------------------------------------------------------------------------------


async def test_a_clear_language_costs_no_encoding(stage: Stage) -> None:
    transcript = await stage.transcript(20, language=None)
    assert (transcript.language, transcript.language_probability) == ("en", 0.9)
    assert sum(len(seconds) for seconds, _ in stage.ears.encoded) == len(transcript.segments) == 4
    assert {asked.language for asked in stage.ears.decoded} == {"en"}


async def test_a_doubtful_language_is_settled_by_three_windows_before_any_is_decoded(stage: Stage) -> None:
    stage.ears.language = lambda second: {"en": 0.4, "de": 0.3} if second == 1 else {"en": 0.1, "de": 0.8}
    transcript = await stage.transcript(20, language=None)
    assert transcript.language == "de"
    assert transcript.language_probability == pytest.approx((0.3 + 0.8 + 0.8) / 3)
    assert {asked.language for asked in stage.ears.decoded} == {"de"}
    assert transcript.text == "1 5 9 13"


async def test_one_doubtful_window_has_to_do_if_there_is_no_other(stage: Stage) -> None:
    stage.ears.language = lambda second: {"en": 0.3, "de": 0.4}
    transcript = await stage.transcript(3, language=None)
    assert (transcript.language, transcript.text) == ("de", "1")


async def test_languages_are_chosen_among_those_that_were_named(stage: Stage) -> None:
    assert (await stage.transcript(3, language=None, languages=("de",))).language == "de"
    with pytest.raises(UnsupportedCapability) as refusal:
        await stage.transcript(3, language=None, languages=("fr",))
    assert refusal.value.field == "languages"


async def test_each_window_may_have_its_own_language(stage: Stage) -> None:
    stage.ears.language = lambda second: {"en": 0.9, "de": 0.1} if second < 9 else {"en": 0.2, "de": 0.3}
    transcript = await stage.transcript(20, language=None, multilingual=True)
    assert [one.language for one in transcript.segments] == ["en", "en", "de", "de"]
    assert transcript.language == "en"


async def test_detection_encodes_each_window_once_and_decodes_nothing(stage: Stage) -> None:
    audio = stage.upload(wav(counting(20)))
    heard = await stage.engine.detect_language(audio, DetectionRequest(vad=EVERYTHING))
    assert (heard.candidates, heard.windows, heard.duration) == ((("en", 0.9), ("de", 0.1)), 1, 20.0)
    assert [seconds for seconds, _ in stage.ears.encoded] == [[1]]
    heard = await stage.engine.detect_language(audio, DetectionRequest(vad=EVERYTHING, windows=3))
    assert (heard.windows, sorted(chain.from_iterable(seconds for seconds, _ in stage.ears.encoded[1:]))) == (
        3,
        [1, 9, 13],
    )
    assert stage.ears.decoded == []
    silence = stage.upload(wav(np.zeros(RATE, np.int16)))
    assert (await stage.engine.detect_language(silence, DetectionRequest())).candidates == ()


async def test_a_model_of_one_language_detects_nothing(tmp_path: Path, decoder: AudioDecoder) -> None:
    stage = Stage(tmp_path, decoder, OPTIONS, languages="en")
    heard = await stage.engine.detect_language(stage.upload(wav(counting(3))), DetectionRequest(vad=EVERYTHING))
    assert heard.candidates == (("en", 1.0),)
    assert (await stage.transcript(3, language=None)).language_probability == 1.0
    await stage.close()


# -- the guard ----------------------------------------------------------------------------------------


async def test_only_a_failing_window_is_encoded_again_and_the_order_is_kept(stage: Stage) -> None:
    def answer(asked: Asked) -> object:
        doubtful = asked.second == 5 and asked.key.frames < 3000
        return said(f" {asked.second}", asked.seconds, avg_logprob=-1.5 if doubtful else -0.2)

    stage.ears.answer = answer  # type: ignore[assignment]
    transcript = await stage.transcript(20)
    assert transcript.text == "1 5 9 13"
    assert [(caveat.code, caveat.count) for caveat in transcript.warnings] == [("windows_redone", 1)]
    assert [seconds for seconds, frames in stage.ears.encoded if frames == 3000] == [[5]]
    again = next(asked for asked in stage.ears.decoded if asked.key.frames == 3000)
    assert again.key.attempt is not None
    assert (again.key.attempt.beam_size, again.key.attempt.temperature) == (5, 0.0)


async def test_without_the_guard_nothing_is_decoded_twice(stage: Stage) -> None:
    stage.ears.answer = lambda asked: said(" la" * 100, asked.seconds, avg_logprob=-3.0, no_speech_prob=0.9)
    transcript = await stage.transcript(3, guard=GuardOptions(enabled=False))
    assert (transcript.text.count("la"), len(stage.ears.encoded), transcript.warnings) == (100, 1, ())


async def test_what_never_passes_is_kept_without_its_loop_and_doubted(stage: Stage) -> None:
    stage.ears.answer = lambda asked: said(" so it goes" * 30, 3.0, tokens=5)
    transcript = await stage.transcript(3)
    assert transcript.text == "so it goes"
    assert [(caveat.code, caveat.count) for caveat in transcript.warnings] == [
        ("windows_redone", 1), ("repetition_removed", 1), ("low_confidence", 1),
    ]  # fmt: skip
    assert len(stage.ears.encoded) == 7


async def test_a_window_at_the_models_limit_is_heard_in_halves(stage: Stage) -> None:
    stage.ears.answer = lambda asked: said(f" {asked.second}", asked.seconds, tokens=224 if asked.seconds > 5 else 5)
    transcript = await stage.transcript(8)
    assert [one.text for one in transcript.segments] == [" 1", " 4"]
    assert transcript.segments[0].end == transcript.segments[1].start


async def test_what_is_taken_for_silence_is_left_out(stage: Stage) -> None:
    stage.ears.answer = lambda asked: said(" Thank you.", 3.0, avg_logprob=-1.2, no_speech_prob=0.7)
    transcript = await stage.transcript(3)
    assert (transcript.text, transcript.language, transcript.warnings[0].code) == ("", None, "windows_dropped")


async def test_each_window_sees_the_text_before_it_if_that_is_wanted(stage: Stage) -> None:
    stage.ears.answer = lambda asked: said(f" {asked.second}", asked.seconds)
    await stage.transcript(20, condition_on_previous_text=True, prompt="p")
    assert [asked.prompt for asked in stage.ears.decoded] == ["p", "p 1", "p 1 5", "p 1 5 9"]
    assert all(len(seconds) == 1 for seconds, _ in stage.ears.encoded)


async def test_a_temperature_above_zero_is_the_only_one_tried(stage: Stage) -> None:
    stage.ears.answer = lambda asked: said(" x", asked.seconds, avg_logprob=-3.0)
    transcript = await stage.transcript(3, decoding=DecodingOptions(temperature=0.4, beam_size=5))
    assert [caveat.code for caveat in transcript.warnings] == ["low_confidence"]
    (asked,) = stage.ears.decoded
    assert asked.key.attempt is not None
    assert (asked.key.attempt.temperature, asked.key.attempt.beam_size, asked.key.best_of) == (0.4, 1, 5)


# -- ends that come early -----------------------------------------------------------------------------


async def test_closing_the_generator_drops_what_waits_and_leaves_the_neighbour_alone(stage: Stage) -> None:
    stage.ears.gate.clear()
    events = stage.listen(100)
    assert isinstance(await anext(events), Progress)
    leaving = asyncio.ensure_future(anext(events))
    await stage.in_a_batch()
    neighbour = asyncio.ensure_future(stage.transcript(3, first=500))
    await stage.until(lambda: stage.engine.queue.active_requests == 2)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await events.aclose()
    stage.ears.gate.set()
    assert (await neighbour).text == "500"
    assert len(stage.ears.encoded) == 2
    assert stage.engine.queue.active_requests == 0


async def test_abort_ends_open_generators_and_every_later_one(stage: Stage) -> None:
    stage.ears.gate.clear()
    works = [asyncio.ensure_future(stage.transcript(20)), asyncio.ensure_future(stage.transcript(3))]
    await stage.in_a_batch()
    stage.engine.abort()
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [RequestCancelled, RequestCancelled]
    with pytest.raises(RequestCancelled):
        await stage.transcript(3)
    with pytest.raises(RequestCancelled):
        await stage.engine.detect_language(stage.upload(wav(counting(3))), DetectionRequest())


# -- suspended ------------------------------------------------------------------------------------------


def seconds_of(encoded: list[tuple[list[int], int]]) -> list[int]:
    return sorted(second for batch, _ in encoded for second in batch)


async def test_a_suspended_model_hears_every_window_once_when_it_is_back(
    stage: Stage, tmp_path: Path, decoder: AudioDecoder
) -> None:
    undisturbed = [(await stage.transcript(100)).text, (await stage.transcript(40, first=500)).text]
    whole, before = seconds_of(stage.ears.encoded), len(stage.ears.encoded)
    stage.ears.gate.clear()
    works = [asyncio.ensure_future(stage.transcript(100)), asyncio.ensure_future(stage.transcript(40, first=500))]
    while stage.ears.at_gate.acquire(blocking=False):
        pass
    await stage.in_a_batch()
    suspending = asyncio.ensure_future(asyncio.to_thread(stage.engine.suspend))
    await stage.until(lambda: bool(stage.thread._calls))
    stage.ears.gate.set()
    await suspending
    heard = stage.ears.encoded[before:]
    assert stage.ears.is_closed
    newcomer = asyncio.ensure_future(stage.transcript(3, first=900))
    detection = DetectionRequest(vad=EVERYTHING)
    detecting = asyncio.ensure_future(stage.engine.detect_language(stage.upload(wav(counting(3, 950))), detection))
    await stage.until(lambda: stage.engine.queue.active_requests == 4)
    await asyncio.sleep(0.05)
    assert (stage.ears.encoded[before:], any(work.done() for work in works)) == (heard, False)
    other = tmp_path / "other"
    other.mkdir()
    fresh = Stage(other, decoder, OPTIONS)
    await asyncio.to_thread(stage.engine.resume, fresh.engine)
    assert [(await work).text for work in works] == undisturbed
    assert ((await newcomer).text, (await detecting).candidates[0][0]) == ("900", "en")
    assert 0 < len(heard) < len(whole)
    assert seconds_of([*heard, *fresh.ears.encoded]) == [*whole, 900, 950]
    stage.ears = fresh.ears


async def test_a_suspended_model_can_be_left_aborted_and_closed(stage: Stage) -> None:
    stage.ears.gate.clear()
    leaving, staying = asyncio.ensure_future(stage.transcript(40)), asyncio.ensure_future(stage.transcript(40))
    late = asyncio.ensure_future(stage.transcript(40, timeout_seconds=0.2))
    await stage.in_a_batch()
    suspending = asyncio.ensure_future(asyncio.to_thread(stage.engine.suspend))
    await stage.until(lambda: bool(stage.thread._calls))
    stage.ears.gate.set()
    await suspending
    leaving.cancel()
    await asyncio.wait({leaving})
    with pytest.raises(DeadlineExceeded):
        await late
    assert stage.engine.queue.active_requests == 1
    stage.engine.abort(InsufficientMemory("there is no room for it any more"))
    with pytest.raises(InsufficientMemory):
        await staying


async def test_a_deadline_ends_the_work_even_in_the_middle_of_a_batch(stage: Stage) -> None:
    await stage.transcript(1)
    stage.ears.gate.clear()
    with pytest.raises(DeadlineExceeded):
        await stage.transcript(20, timeout_seconds=0.2)
    stage.ears.gate.set()
    assert (await stage.transcript(3)).text == "1"


@pytest.mark.parametrize(("data", "kind"), [(b"", EmptyAudio), (b"text", AudioRefused)])
async def test_bad_audio_fails_before_the_first_event(stage: Stage, data: bytes, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        await anext(stage.listen_to(data))
    with pytest.raises(kind):
        await stage.engine.detect_language(stage.upload(data), DetectionRequest())
    assert stage.ears.encoded == []


async def test_what_the_model_cannot_do_fails_before_the_audio_is_read(stage: Stage) -> None:
    for request in (TranscriptionRequest(task=SpeechTask.TRANSLATE), TranscriptionRequest(language="fr")):
        with pytest.raises(UnsupportedCapability):
            await anext(stage.engine.transcribe(stage.upload(b"text"), request))


async def test_sizes_that_nobody_has_decided_are_refused_at_once(tmp_path: Path, decoder: AudioDecoder) -> None:
    for options in (EngineOptions(), EngineOptions(rows=4), EngineOptions(window_seconds=9.0)):
        with pytest.raises(ValueError, match=r"EngineOptions\.on"):
            Stage(tmp_path, decoder, options)


async def test_more_requests_than_may_wait_are_refused(tmp_path: Path, decoder: AudioDecoder) -> None:
    stage = Stage(tmp_path, decoder, EngineOptions(rows=1, window_seconds=9.0, batch_wait_seconds=0.0, max_waiting=1))
    stage.ears.gate.clear()
    first = asyncio.ensure_future(stage.transcript(3))
    await stage.in_a_batch()
    assert stage.engine.waiting == 0
    second = asyncio.ensure_future(stage.transcript(3, first=20))
    await stage.until(lambda: stage.engine.waiting == 1)
    with pytest.raises(Overloaded):
        await stage.transcript(3)
    stage.ears.gate.set()
    assert [(await work).text for work in (first, second)] == ["1", "20"]
    await stage.close()


async def test_more_audio_than_may_wait_is_refused(tmp_path: Path, decoder: AudioDecoder) -> None:
    options = EngineOptions(rows=1, window_seconds=9.0, batch_wait_seconds=0.0, max_waiting_audio_seconds=30.0)
    stage = Stage(tmp_path, decoder, options)
    assert (await stage.transcript(40)).duration == 40.0
    stage.ears.gate.clear()
    first = asyncio.ensure_future(stage.transcript(20))
    await stage.in_a_batch()
    await stage.until(lambda: stage.engine.queue.waiting_audio_seconds == 20.0)
    with pytest.raises(Overloaded, match="seconds of audio"):
        await stage.transcript(20)
    stage.ears.gate.set()
    assert (await first).duration == 20.0
    await stage.close()

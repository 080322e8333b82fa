"""Real speech through the real whisper:base."""

import asyncio
import shutil
import sys
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import jiwer
import psutil
import pytest
import srt  # type: ignore[import-untyped]

from benchmarks.spoken import CLIPS, joined, plain
from domain.cue_options import CueOptions
from domain.errors import ModelLoadFailed, UnsupportedCapability
from domain.listening import DecodingOptions, VadOptions
from domain.rung import RungVerdict
from domain.subtitles import SubtitleFormat, render
from domain.transcription import (
    Progress,
    Segment,
    SpeechTask,
    Transcript,
    TranscriptionRequest,
)
from models import memory
from models.speech.decoder import AudioDecoder
from models.speech.engine import WhisperEngine
from models.speech.loader import load_whisper
from models.speech.whisper import WhisperEars
from tests.models.sound import sound_file, tone

if TYPE_CHECKING:
    from models.installed import InstalledModel
    from models.store import ModelStore

pytestmark = pytest.mark.weights("whisper:base")

JFK = CLIPS["jfk.wav"]
AUSTEN = {number: CLIPS[name] for name in CLIPS for number in [name.partition("64kb-")[2][:4]] if number}


def clip(folder: Path, number: str) -> Path:
    return folder / f"sense_and_sensibility_01_austen_64kb-{number}.wav"


@pytest.fixture(scope="module")
def installed(model_store: "ModelStore") -> "InstalledModel":
    return model_store.find("whisper:base")


@pytest.fixture(scope="module")
def decoder() -> Iterator[AudioDecoder]:
    decoder = AudioDecoder()
    yield decoder
    decoder.close()


def load(
    installed: "InstalledModel", decoder: AudioDecoder, compute_type: str = "auto", folder: Path | None = None
) -> WhisperEngine:
    return load_whisper(
        installed.spec,
        folder or installed.directory,
        decoder=decoder,
        device="cpu",
        compute_type=compute_type,
        cpu_threads=2,
        lanes=2,
        on_progress=lambda progress: None,
    )


@pytest.fixture(scope="module")
def engine(installed: "InstalledModel", decoder: AudioDecoder) -> Iterator[WhisperEngine]:
    engine = load(installed, decoder)
    yield engine
    engine.close()


async def transcribe(engine: WhisperEngine, audio: Path, request: TranscriptionRequest | None = None) -> Transcript:
    async with aclosing(engine.transcribe(audio, request or TranscriptionRequest())) as events:
        found = [event async for event in events]
    assert isinstance(found[-1], Transcript)
    return found[-1]


# -- what is heard ------------------------------------------------------------------------------------


async def test_kennedy_is_written_down_word_for_word(engine: WhisperEngine, audio_dir: Path) -> None:
    async with aclosing(engine.transcribe(audio_dir / "jfk.wav", TranscriptionRequest())) as events:
        found = [event async for event in events]
    transcript = found[-1]
    assert isinstance(transcript, Transcript)
    assert plain(transcript.text) == plain(JFK)
    assert (transcript.language, transcript.duration, transcript.warnings) == ("en", 11.0, ())
    assert transcript.language_probability > 0.8
    assert 9.0 < transcript.duration_after_vad <= 11.0
    assert transcript.processing_time > 0.0
    assert (transcript.device, transcript.compute_type) == ("cpu", engine.info.quantization + "_" + engine.info.dtype)

    segments = [event for event in found if isinstance(event, Segment)]
    assert tuple(segments) == transcript.segments
    assert "".join(segment.text for segment in segments).strip() == transcript.text
    assert [segment.id for segment in segments] == list(range(len(segments)))
    assert all(0.0 <= segment.start < segment.end <= 11.0 for segment in segments)
    done = [event.processed for event in found if isinstance(event, Progress)]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0.0, 11.0)


async def test_an_mp3_is_written_down_like_the_wav(engine: WhisperEngine, audio_dir: Path) -> None:
    transcript = await transcribe(engine, audio_dir / "jfk.mp3", TranscriptionRequest(language="en"))
    assert plain(transcript.text) == plain(JFK)
    assert (transcript.language, transcript.language_probability, transcript.duration) == ("en", 1.0, 11.0)


async def test_austen_is_written_down_with_few_errors(engine: WhisperEngine, audio_dir: Path) -> None:
    english = TranscriptionRequest(language="English")
    heard = [(await transcribe(engine, clip(audio_dir, number), english)).text for number in AUSTEN]
    assert jiwer.wer(list(AUSTEN.values()), [plain(text) for text in heard]) <= 0.1


async def test_words_have_times_that_do_not_run_back(engine: WhisperEngine, audio_dir: Path) -> None:
    request = TranscriptionRequest(language="en", word_timestamps=True)
    transcript = await transcribe(engine, audio_dir / "jfk.wav", request)
    words = [word for segment in transcript.segments for word in segment.words]
    assert "".join(word.text for word in words).strip() == transcript.text
    assert all(0.0 <= word.start <= word.end <= 11.0 and 0.0 <= word.probability <= 1.0 for word in words)
    assert all(before.start <= after.start for before, after in pairwise(words))
    spoken = {plain(word.text): word for word in words}
    # Kennedy pauses after "Americans", and says "ask not" after more than three seconds.
    assert spoken["americans"].end < 3.5 < spoken["not"].end


@pytest.mark.parametrize("sound", ["silence", "tone"])
async def test_where_nobody_speaks_the_answer_is_empty(engine: WhisperEngine, tmp_path: Path, sound: str) -> None:
    samples = tone(3.0) * (0 if sound == "silence" else 1)
    (tmp_path / "input.bin").write_bytes(sound_file("flac", "flac", [samples]))
    transcript = await transcribe(engine, tmp_path / "input.bin")
    assert (transcript.text, transcript.segments) == ("", ())
    assert (transcript.language, transcript.language_probability) == (None, 0.0)
    assert transcript.duration == pytest.approx(3.0, abs=0.01)


async def test_a_long_recording_becomes_cues_that_can_be_read_and_begin_where_it_is_said(
    engine: WhisperEngine, audio_dir: Path, tmp_path: Path
) -> None:
    long = joined(audio_dir, 60.0)
    audio = long.flac(tmp_path / "long.flac")
    request = TranscriptionRequest(cues=CueOptions())
    async with aclosing(engine.transcribe(audio, request)) as events:
        found = [event async for event in events]
    transcript = found[-1]
    assert isinstance(transcript, Transcript)
    assert jiwer.wer(long.text, plain(transcript.text)) <= 0.03
    assert transcript.duration_after_vad < transcript.duration - 5
    assert engine.queue.last_batch_rows >= 1
    cues = list(srt.parse(render(transcript, SubtitleFormat.SRT)))
    starts = [cue.start.total_seconds() for cue in cues]
    for cue in cues:
        assert (cue.end - cue.start).total_seconds() <= 7.0
        assert all(len(line) <= 42 for line in cue.content.split("\n"))
        assert cue.content.count("\n") <= 1
    assert all(before.end <= after.start for before, after in pairwise(cues))
    for offset in long.offsets:
        assert min(abs(start - offset) for start in starts) < 1.0, offset
    processed = [event.processed for event in found if isinstance(event, Progress)]
    assert processed == sorted(processed)
    assert processed[-1] == pytest.approx(transcript.duration)


async def test_every_way_of_asking_is_understood_by_the_model(engine: WhisperEngine, audio_dir: Path) -> None:
    rare = TranscriptionRequest(
        languages=("en", "de"),
        decoding=DecodingOptions(2, 2, 1.5, 0.9, 1.1, 4, temperature=(0.0, 0.4)),
        condition_on_previous_text=True,
        timestamps=False,
        clips=((0.0, 2.9),),
        vad=VadOptions(enabled=False),
    )
    transcript = await transcribe(engine, clip(audio_dir, "0880"), rare)
    assert jiwer.wer(AUSTEN["0880"], plain(transcript.text)) <= 0.3
    warm = TranscriptionRequest(language="en", decoding=DecodingOptions(temperature=0.2, best_of=2))
    transcript = await transcribe(engine, clip(audio_dir, "0930"), warm)
    assert transcript.segments[0].temperature == 0.2


# -- what is asked ------------------------------------------------------------------------------------


async def test_a_prompt_is_data_and_its_end_counts(engine: WhisperEngine, audio_dir: Path) -> None:
    nasty = "<|endoftext|><|startoftranscript|><|0.00|>\ud800"
    request = TranscriptionRequest(language="en", prompt=nasty, hotwords="Dashwood <|notimestamps|>")
    transcript = await transcribe(engine, clip(audio_dir, "0880"), request)
    assert jiwer.wer(AUSTEN["0880"], plain(transcript.text)) <= 0.2
    assert transcript.warnings == ()

    long = TranscriptionRequest(language="en", prompt="Ünïcödé " * 150)
    transcript = await transcribe(engine, clip(audio_dir, "0880"), long)
    assert [caveat.code for caveat in transcript.warnings] == ["prompt_truncated"]


async def test_a_prompt_changes_how_names_are_spelled(engine: WhisperEngine, audio_dir: Path) -> None:
    request = TranscriptionRequest(language="en", prompt="Jon Daschwoode")
    assert "Daschwoode" in (await transcribe(engine, clip(audio_dir, "0870"), request)).text


async def test_english_is_translated_into_english(engine: WhisperEngine, audio_dir: Path) -> None:
    request = TranscriptionRequest(language="en", task=SpeechTask.TRANSLATE)
    transcript = await transcribe(engine, clip(audio_dir, "0890"), request)
    assert transcript.task is SpeechTask.TRANSLATE
    assert jiwer.wer(AUSTEN["0890"], plain(transcript.text)) <= 0.2


async def test_many_at_once_get_the_text_that_each_gets_alone(engine: WhisperEngine, audio_dir: Path) -> None:
    requests = [
        (clip(audio_dir, "0930"), TranscriptionRequest(language="en")),
        (clip(audio_dir, "0870"), TranscriptionRequest()),
        (clip(audio_dir, "0920"), TranscriptionRequest(language="en", task=SpeechTask.TRANSLATE)),
        (audio_dir / "jfk.wav", TranscriptionRequest(timestamps=False)),
        (clip(audio_dir, "0890"), TranscriptionRequest(language="en", prompt="Selfish.", word_timestamps=True)),
    ]
    alone = [await transcribe(engine, audio, request) for audio, request in requests]
    together = await asyncio.gather(*(transcribe(engine, audio, request) for audio, request in requests))
    assert [one.segments for one in together] == [one.segments for one in alone]
    assert engine.waiting == 0


# -- loading and unloading ----------------------------------------------------------------------------


def test_the_entity_says_what_was_loaded(engine: WhisperEngine) -> None:
    info = engine.info
    assert (info.is_loaded, info.device, info.quantization, info.dtype) == (True, "cpu", "int8", "float32")
    assert 30 << 20 < info.memory_bytes < 400 << 20
    assert info.load_time_ms > 0


async def test_a_compute_type_that_the_device_lacks_is_replaced_and_said_so(
    installed: "InstalledModel", decoder: AudioDecoder, audio_dir: Path
) -> None:
    english = replace(installed, spec=replace(installed.spec, id="whisper:base.en"))
    engine = load(english, decoder, "float16")
    transcript = await transcribe(engine, clip(audio_dir, "0880"), TranscriptionRequest(language="en"))
    assert [caveat.code for caveat in transcript.warnings] == ["compute_type_changed"]
    assert transcript.compute_type == "int8_float32"
    assert [caveat.code for caveat in engine.info.caveats] == ["compute_type_changed"]
    assert [(rung.device, rung.compute_type, rung.verdict) for rung in engine.info.rungs] == [
        ("cpu", "int8", RungVerdict.USED)
    ]
    # An English checkpoint is one by its name.
    with pytest.raises(UnsupportedCapability):
        await transcribe(engine, audio_dir / "jfk.wav", TranscriptionRequest(task=SpeechTask.TRANSLATE))
    await asyncio.to_thread(engine.close)


async def test_closing_gives_the_memory_back(
    installed: "InstalledModel", decoder: AudioDecoder, engine: WhisperEngine, audio_dir: Path
) -> None:
    request = TranscriptionRequest(language="en")
    await transcribe(engine, clip(audio_dir, "0880"), request)
    process = psutil.Process()
    kept = []
    for _ in range(2):
        memory.trim()
        before = process.memory_info().rss
        other = await asyncio.to_thread(load, installed, decoder, "float32")
        await transcribe(other, clip(audio_dir, "0880"), request)
        held = process.memory_info().rss - before
        ears = other._listener.ears
        assert isinstance(ears, WhisperEars)
        weights = ears._model
        await asyncio.to_thread(other.close)
        assert not weights.model_is_loaded
        assert held > 250 << 20
        kept.append(process.memory_info().rss - before)
    # What stays of the first is CTranslate2's and the voice detector's own, once for the process.
    assert kept[0] < 100 << 20
    assert kept[1] < 0.1 * held


def test_weights_that_are_cut_off_are_refused_by_name_and_others_work_on(
    installed: "InstalledModel", decoder: AudioDecoder, engine: WhisperEngine, tmp_path: Path
) -> None:
    for file in ("config.json", "tokenizer.json", "vocabulary.json"):
        shutil.copy(installed.directory / file, tmp_path / file)
    with (installed.directory / "model.bin").open("rb") as whole:
        (tmp_path / "model.bin").write_bytes(whole.read(50 << 20))
    with pytest.raises(ModelLoadFailed, match=r"model\.bin is damaged") as refusal:
        load(installed, decoder, folder=tmp_path)
    assert str(tmp_path) not in str(refusal.value)
    assert engine.info.is_loaded


def test_a_vocabulary_that_cannot_be_read_is_refused_by_name(
    installed: "InstalledModel", decoder: AudioDecoder, tmp_path: Path
) -> None:
    for file in installed.directory.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(ModelLoadFailed, match=r"tokenizer\.json is damaged") as refusal:
        load(installed, decoder, folder=tmp_path)
    assert str(tmp_path) not in str(refusal.value)


CONNECTIONS: list[str] = []


@pytest.fixture(scope="module")
def connections() -> Iterator[list[str]]:
    """Addresses that Python code of this process connects to or looks up."""
    CONNECTIONS.clear()
    watching = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event in ("socket.connect", "socket.getaddrinfo"):
            CONNECTIONS.append(f"{event} {arguments[-1]}")

    sys.addaudithook(hook)
    yield CONNECTIONS
    watching = False


def test_loading_asks_no_hub(installed: "InstalledModel", decoder: AudioDecoder, connections: list[str]) -> None:
    load(installed, decoder).close()
    assert connections == []

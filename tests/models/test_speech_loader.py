"""What is refused before or while weights are read. No weights are needed."""

import itertools
import json
from collections.abc import Mapping
from ctypes.util import find_library
from pathlib import Path

import pytest

from domain.errors import ModelLoadFailed, UnsupportedCapability
from domain.model import ModelSpec, Task, WeightFormat
from domain.rung import RungVerdict
from domain.transcription import SpeechTask, TranscriptionRequest
from models.speech.abilities import Abilities
from models.speech.decoder import AudioDecoder
from models.speech.ladder import Climbed, NoRungLeft, first_that_works, ladder
from models.speech.loader import DeviceFailed, check_directory, load_whisper, preload_cublas
from models.speech.self_test import edits, what_is_wrong
from tests.models.scripted_ears import ScriptedEars, said


def spec(name: str, hub_id: str | None = None) -> ModelSpec:
    return ModelSpec(name, name, Task.SPEECH, WeightFormat.CTRANSLATE2, "whisper", hub_id=hub_id)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A directory that looks like a checkpoint, with weights that are none."""
    (tmp_path / "model.bin").write_bytes(b"these are no weights" * 100)
    (tmp_path / "config.json").write_text(json.dumps({"alignment_heads": [[3, 1]], "lang_ids": [50259]}))
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "vocabulary.json").write_text("[]")
    return tmp_path


@pytest.mark.parametrize("file", ["model.bin", "config.json", "tokenizer.json", "vocabulary.json"])
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_checkpoint_that_lacks_a_file_is_refused_by_the_files_name(checkpoint: Path, file: str, how: str) -> None:
    (checkpoint / file).unlink() if how == "missing" else (checkpoint / file).write_bytes(b"")
    with pytest.raises(ModelLoadFailed, match=file) as refusal:
        check_directory("ear:base", checkpoint)
    assert str(checkpoint) not in str(refusal.value)


@pytest.mark.parametrize("file", ["config.json", "vocabulary.json"])
@pytest.mark.parametrize("content", [b'{"alignment_heads": [[3, 1]', b"\xff\xfe\x00", b"[" * 100_000])
def test_a_checkpoint_with_a_broken_file_is_refused_by_the_files_name(
    checkpoint: Path, file: str, content: bytes
) -> None:
    (checkpoint / file).write_bytes(content)
    with pytest.raises(ModelLoadFailed, match=file):
        check_directory("ear:base", checkpoint)


@pytest.mark.parametrize("config", ["{}", '{"alignment_heads": []}', "[]", "null"])
def test_a_model_of_another_kind_is_refused(checkpoint: Path, config: str) -> None:
    (checkpoint / "config.json").write_text(config)
    with pytest.raises(ModelLoadFailed, match="alignment_heads"):
        check_directory("ear:base", checkpoint)


def test_a_vocabulary_as_text_will_do(checkpoint: Path) -> None:
    (checkpoint / "vocabulary.json").rename(checkpoint / "vocabulary.txt")
    assert check_directory("ear:base", checkpoint) == 2000


def test_weights_that_are_none_are_refused_by_the_files_name(checkpoint: Path) -> None:
    decoder = AudioDecoder()
    with pytest.raises(ModelLoadFailed, match=r"model\.bin") as refusal:
        load_whisper(
            spec("ear:base"),
            checkpoint,
            decoder=decoder,
            device="cpu",
            compute_type="auto",
            cpu_threads=1,
            on_progress=lambda progress: None,
        )
    assert str(checkpoint) not in str(refusal.value)
    decoder.close()


# -- compute types ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "wanted", "supported", "rungs"),
    [
        ("cpu", "auto", {"int8", "int8_float32", "float32"}, ["int8", "float32"]),
        ("cpu", "auto", {"int8", "int16", "float32"}, ["int8", "int16", "float32"]),
        ("cpu", "float32", {"int8", "float32"}, ["float32", "int8"]),
        ("cpu", "float16", {"int8", "float32"}, ["int8", "float32"]),
        ("cuda", "auto", {"float16", "int8_float16", "int8_float32", "float32", "int8"},
         ["float16", "int8_float16", "int8_float32", "float32"]),
        ("cuda", "auto", {"int8_float32", "float32", "int8"}, ["int8_float32", "float32"]),
        ("cuda", "auto", {"float32"}, ["float32"]),
        ("cuda", "bfloat16", {"bfloat16", "float16", "float32"}, ["bfloat16", "float16", "float32"]),
    ],
)  # fmt: skip
def test_the_named_compute_type_comes_first_and_what_the_device_lacks_not_at_all(
    device: str, wanted: str, supported: set[str], rungs: list[str]
) -> None:
    assert list(ladder(device, wanted, supported)) == rungs


# -- abilities ----------------------------------------------------------------------------------------

MANY = frozenset({"en", "de", "fr"})
TRANSLATE = TranscriptionRequest(task=SpeechTask.TRANSLATE)


@pytest.mark.parametrize(
    "refuses",
    [
        Abilities.of(spec("whisper:base.en"), frozenset({"en"})),
        Abilities.of(spec("whisper:large-v3-turbo"), MANY),
        Abilities.of(spec("turbo"), MANY),
        Abilities.of(spec("whisper:distil-large-v3"), MANY),
        Abilities.of(spec("mine", "deepdml/faster-whisper-large-v3-turbo-ct2"), MANY),
    ],
    ids=lambda abilities: abilities.name,
)
def test_a_checkpoint_that_was_not_trained_to_translate_refuses_to(refuses: Abilities) -> None:
    with pytest.raises(UnsupportedCapability) as refusal:
        refuses.language_for(TRANSLATE)
    assert refusal.value.field == "task"


def test_a_checkpoint_of_many_languages_translates_and_detects() -> None:
    abilities = Abilities.of(spec("whisper:base", "Systran/faster-whisper-base"), MANY)
    assert abilities.language_for(TRANSLATE) is None
    assert abilities.language_for(TranscriptionRequest(language="German")) == "de"


def test_an_english_checkpoint_detects_nothing_and_refuses_french() -> None:
    abilities = Abilities.of(spec("whisper:base.en"), frozenset({"en"}))
    assert abilities.language_for(TranscriptionRequest()) == "en"
    with pytest.raises(UnsupportedCapability, match="fr"):
        abilities.language_for(TranscriptionRequest(language="fr"))


# -- rungs ----------------------------------------------------------------------------------------------


def climb(texts: Mapping[str, str | Exception], dropped: list[ScriptedEars] | None = None) -> Climbed[ScriptedEars]:
    """Over compute types in which the self-test's clip says what `texts` has."""

    def load(rung: str) -> ScriptedEars:
        outcome = texts[rung]
        if isinstance(outcome, Exception):
            raise outcome
        return ScriptedEars(answer=lambda asked: said(outcome, asked.seconds))

    ticks = itertools.count()
    kept = [] if dropped is None else dropped
    return first_that_works("cuda:0", list(texts), load, what_is_wrong, kept.append, lambda: float(next(ticks)))


def test_a_compute_type_that_gives_empty_texts_is_skipped_and_told() -> None:
    dropped: list[ScriptedEars] = []
    climbed = climb(
        {"float16": "", "int8_float16": " And so on, and on.", "float32": f" {KENNEDY}", "int8": KENNEDY}, dropped
    )
    assert what_is_wrong(climbed.loaded) is None
    assert [(rung.compute_type, rung.verdict, rung.seconds) for rung in climbed.rungs] == [
        ("float16", RungVerdict.REJECTED, 1.0),
        ("int8_float16", RungVerdict.REJECTED, 1.0),
        ("float32", RungVerdict.USED, 1.0),
    ]
    assert [rung.reason for rung in climbed.rungs] == ["its text is empty", "it gets 91% of the words wrong", ""]
    assert len(dropped) == 2
    with pytest.raises(NoRungLeft, match="its text is empty") as refusal:
        climb({"float16": ""})
    assert not refusal.value.out_of_memory


def test_a_compute_type_that_does_not_fit_is_skipped_and_other_failures_are_told() -> None:
    full = RuntimeError("CUDA failed with error out of memory")
    climbed = climb({"float32": full, "int8": KENNEDY})
    assert [rung.verdict for rung in climbed.rungs] == [RungVerdict.NO_MEMORY, RungVerdict.USED]
    with pytest.raises(NoRungLeft) as refusal:
        climb({"float32": MemoryError()})
    assert refusal.value.out_of_memory
    with pytest.raises(RuntimeError, match="Unable to open"):
        climb({"float32": full, "int16": RuntimeError("Unable to open file"), "int8": KENNEDY})


def test_a_compute_type_that_the_device_offers_without_kernels_is_skipped() -> None:
    def check(loaded: str) -> str | None:
        if loaded == "int8":
            raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")
        return None

    climbed = first_that_works("cuda:0", ["int8", "float32"], str, check, lambda _loaded: None)
    assert [(rung.verdict, rung.reason) for rung in climbed.rungs] == [
        (RungVerdict.REJECTED, "CUBLAS_STATUS_NOT_SUPPORTED"), (RungVerdict.USED, ""),
    ]  # fmt: skip


def test_a_library_that_is_missing_is_named_with_what_to_do() -> None:
    if find_library("cublas"):
        pytest.skip("this machine has the library")
    with pytest.raises(
        DeviceFailed, match=r"libcublas\.so\.12 is not here\. Install it with: pip install ingle\[cuda\]"
    ):
        preload_cublas("ear:base")


def test_the_fewest_edits_are_counted() -> None:
    assert edits("abc", "abc") == 0
    assert edits("axcd", "abc") == 2
    assert edits("", "ab") == 2


KENNEDY = "And so my fellow Americans ask not what your country can do for you, ask what you can do for your country."

"""What is refused before or while weights are read. No weights are needed."""

import json
from pathlib import Path

import pytest

from domain.errors import ModelLoadFailed, UnsupportedCapability
from domain.model import ModelSpec, Task, WeightFormat
from domain.transcription import SpeechTask, TranscriptionRequest
from models.speech.abilities import Abilities
from models.speech.decoder import AudioDecoder
from models.speech.loader import NoRungLeft, check_directory, first_that_works, ladder, load_whisper
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


def test_a_compute_type_that_gives_empty_texts_is_skipped() -> None:
    texts = {"float16": "", "int8_float16": " And so on, and on.", "float32": f" {KENNEDY}"}
    tried: list[str] = []

    def load(rung: str) -> ScriptedEars:
        tried.append(rung)
        return ScriptedEars(answer=lambda asked: said(texts[rung], asked.seconds))

    ears = first_that_works(list(texts), load, what_is_wrong)
    assert tried == ["float16", "int8_float16", "float32"]
    assert what_is_wrong(ears) is None
    with pytest.raises(NoRungLeft, match="its text is empty") as refusal:
        first_that_works(["float16"], load, what_is_wrong)
    assert not refusal.value.out_of_memory


def test_a_compute_type_that_does_not_fit_is_skipped_and_other_failures_are_told() -> None:
    def load(rung: str) -> str:
        if rung == "float32":
            raise RuntimeError("CUDA failed with error out of memory")
        if rung == "int16":
            raise RuntimeError("Unable to open file")
        return rung

    assert first_that_works(["float32", "int8"], load, lambda loaded: None) == "int8"
    with pytest.raises(NoRungLeft) as refusal:
        first_that_works(["float32"], load, lambda loaded: None)
    assert refusal.value.out_of_memory
    with pytest.raises(RuntimeError, match="Unable to open"):
        first_that_works(["float32", "int16", "int8"], load, lambda loaded: None)


def test_the_fewest_edits_are_counted() -> None:
    assert edits("abc", "abc") == 0
    assert edits("axcd", "abc") == 2
    assert edits("", "ab") == 2


KENNEDY = "And so my fellow Americans ask not what your country can do for you, ask what you can do for your country."

"""Models that a person puts into the models folder."""

import logging
import os
import pickle
import struct
from pathlib import Path

import pytest

from domain.errors import InvalidRequest, ModelLoadFailed, ModelNotFound
from domain.model import Task, WeightFormat
from models.catalog import Catalog
from models.store import ModelStore
from tests.fakes.registry import Registry
from tests.models.pulling import BOXED, open_store, unheard
from tests.models.weight_files import ENCODER, GGUF_FIELDS, QWEN, WHISPER, gguf, safetensors, write


@pytest.fixture
def store(tmp_path: Path, registry: Registry, catalog: Catalog) -> ModelStore:
    return open_store(tmp_path, registry, catalog, aliases={"qwen-model_full": BOXED})


def test_a_directory_with_safetensors_is_a_text_model(tmp_path: Path, store: ModelStore) -> None:
    write(tmp_path / "qwen-model_full", QWEN)
    (model,) = store.installed()
    spec = model.spec
    assert (spec.id, spec.task, spec.format, spec.family) == (
        "qwen-model_full",
        Task.TEXT,
        WeightFormat.SAFETENSORS,
        "qwen2",
    )
    assert (spec.context_length, spec.parameters) == (32768, 10)
    assert spec.capabilities == ("completion", "tools", "thinking")
    assert model.directory == tmp_path / "qwen-model_full"
    assert spec.size_bytes == sum(file.size for file in model.files)
    assert model.is_placed
    store.verify(model)


def test_a_placed_model_is_stronger_than_an_alias_of_its_name(
    tmp_path: Path, store: ModelStore, registry: Registry
) -> None:
    store.pull(BOXED, unheard)
    assert store.find("qwen-model_full").spec.id == BOXED
    write(tmp_path / "qwen-model_full", QWEN)
    assert store.find("Qwen-Model_Full").spec.id == "qwen-model_full"
    requests = len(registry.seen)
    assert store.pull("qwen-model_full", unheard).is_placed
    assert len(registry.seen) == requests


def test_a_directory_in_ctranslate2s_layout_is_a_speech_model(tmp_path: Path, store: ModelStore) -> None:
    write(tmp_path / "my-whisper", WHISPER)
    spec = store.find("my-whisper").spec
    assert (spec.task, spec.format, spec.capabilities) == (Task.SPEECH, WeightFormat.CTRANSLATE2, ("audio",))


def test_a_sentence_encoder_is_an_embedding_model(tmp_path: Path, store: ModelStore) -> None:
    write(tmp_path / "my-encoder", ENCODER)
    model = store.find("my-encoder")
    assert (model.spec.task, model.spec.context_length) == (Task.EMBEDDING, 256)
    assert "1_Pooling/config.json" in {file.name for file in model.files}


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in-a-directory"])
def test_a_gguf_file_is_a_text_model(tmp_path: Path, store: ModelStore, inside: bool) -> None:
    content = gguf(GGUF_FIELDS, {"w": (8, 4), "v": (3,)})
    write(tmp_path, {"tiny/some.gguf" if inside else "tiny.gguf": content})
    model = store.find("tiny")
    spec = model.spec
    assert (spec.title, spec.family, spec.context_length, spec.parameters) == ("A Qwen", "qwen2", 4096, 35)
    assert spec.capabilities == ("completion", "tools")
    assert model.files[0].path.read_bytes() == content
    assert model.files[0].sha256 is None


def test_a_model_may_be_a_link_to_another_disk(tmp_path: Path, store: ModelStore) -> None:
    elsewhere = write(tmp_path.parent / f"{tmp_path.name}-elsewhere", QWEN)
    (tmp_path / "linked").symlink_to(elsewhere)
    assert store.find("linked").spec.task is Task.TEXT


def test_links_inside_a_model_may_not_lead_out_of_it(tmp_path: Path, store: ModelStore) -> None:
    secret = write(tmp_path.parent / f"{tmp_path.name}-elsewhere", {"secret.json": "{}"}) / "secret.json"
    folder = write(tmp_path / "sly", QWEN)
    (folder / "generation_config.json").symlink_to(secret)
    (tmp_path / "frank").mkdir()
    write(tmp_path / "frank", QWEN)
    (tmp_path / "frank" / "vocab.json").symlink_to("tokenizer.json")
    assert [model.spec.id for model in store.installed()] == ["frank"]
    with pytest.raises(ModelLoadFailed, match=r"'generation_config\.json' is a link that leads out") as caught:
        store.find("sly")
    assert str(tmp_path) not in str(caught.value)


class _Canary:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("canary",)


def test_pickled_weights_are_not_offered_and_never_opened(
    tmp_path: Path, store: ModelStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config: dict[str, object] = {"architectures": ["Qwen2ForCausalLM"]}
    write(tmp_path / "pickled", {"config.json": config, "pytorch_model.bin": pickle.dumps(_Canary())})
    with caplog.at_level(logging.WARNING):
        assert store.installed() == []
        assert store.installed() == []
    assert caplog.text.count("'pickled' is not offered: its weights are pickled (pytorch_model.bin)") == 1
    with pytest.raises(ModelLoadFailed, match="its weights are pickled"):
        store.find("pickled")
    assert not (tmp_path / "canary").exists()


def _list_of(layout: str, value: int, *, count: int = 1) -> bytes:
    """A GGUF header whose only field is a list of `count` texts, the first of which claims to be `value` long."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"x"
    return head + struct.pack("<IIQ", 9, 8, count) + struct.pack(layout, value)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"notes.txt": "hello"}, "no safetensors, GGUF or CTranslate2 weights"),
        ({"model.safetensors": safetensors({"a": (1,)})}, "config.json is missing"),
        ({**QWEN, "config.json": "{"}, "config.json is not JSON"),
        ({**QWEN, "config.json": "[]"}, "config.json is not a JSON object"),
        ({**QWEN, "config.json": "[" * 100_000}, "config.json is not JSON"),
        ({**QWEN, "config.json": {"architectures": ["WhisperForConditionalGeneration"]}}, "neither a causal"),
        ({**QWEN, "config.json": {"architectures": "x"}}, "neither a causal"),
        ({**QWEN, "model.safetensors": b"\xff" * 8 + b"{}"}, "is not a safetensors file"),
        ({**QWEN, "model.safetensors": b""}, "is not a safetensors file"),
        ({**QWEN, "model.safetensors": b"\x02\0\0\0\0\0\0\0[]"}, "cannot be read"),
        ({**WHISPER, "config.json": {}}, "not that of a Whisper model"),
        ({"a.gguf": b"GGUF", "b.gguf": b"GGUF"}, "several GGUF files"),
        ({"a.gguf": b"nope" * 100}, "is not a GGUF file"),
        ({"a.gguf": gguf(GGUF_FIELDS, {})[:60]}, "is cut"),
        ({"a.gguf": gguf(GGUF_FIELDS, {}, version=9)}, "is not a GGUF file of version 2 or 3"),
        ({"a.gguf": b"GGUF\x03\0\0\0" + b"\xff" * 16}, "claims"),
        ({"a.gguf": _list_of("<Q", 1 << 63)}, "claims more than it holds"),
        ({"a.gguf": _list_of("<H", 0, count=1 << 62)}, "a list of"),
        ({"a.gguf": gguf({"general.name": "x"}, {})}, "does not say of which architecture"),
    ],
)
def test_a_directory_that_is_no_model_says_why(
    tmp_path: Path, store: ModelStore, files: dict[str, bytes | str | dict[str, object]], reason: str
) -> None:
    write(tmp_path / "broken", files)
    assert store.installed() == []
    with pytest.raises(ModelLoadFailed, match=f"model 'broken' cannot be loaded: .*{reason}"):
        store.find("broken")


def test_figures_out_of_range_are_not_believed(tmp_path: Path, store: ModelStore) -> None:
    config: dict[str, object] = {"architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 1 << 60}
    write(tmp_path / "big", {**QWEN, "config.json": config})
    assert store.find("big").spec.context_length == 0


def test_what_has_no_models_name_is_nobodys_model(tmp_path: Path, store: ModelStore) -> None:
    for name in (".hidden", "a b", "lost+found", "x..y"):
        write(tmp_path / name, QWEN)
    write(tmp_path, {"notes.txt": "", "..gguf": b"GGUF", "README.md": ""})
    assert store.installed() == []
    with pytest.raises(ModelNotFound):
        store.find("a b")


def test_a_model_that_changes_is_seen_and_has_another_digest(tmp_path: Path, store: ModelStore) -> None:
    folder = write(tmp_path / "growing", QWEN)
    before = store.find("growing")
    assert store.find("growing") is before, "nothing changed: nothing is read again"
    write(folder, {"model.safetensors": safetensors({"a": (5, 5)})})
    after = store.find("growing")
    assert after.spec.parameters == 25
    assert after.digest != before.digest
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadFailed):
        store.find("growing")


def test_a_placed_model_is_its_owners_to_remove(tmp_path: Path, store: ModelStore) -> None:
    write(tmp_path / "mine", QWEN)
    with pytest.raises(InvalidRequest, match="placed in the models folder by hand"):
        store.remove("mine")
    assert (tmp_path / "mine" / "model.safetensors").exists()


def test_a_models_folder_that_is_not_there_is_empty(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    store = open_store(tmp_path / "not" / "yet", registry, catalog)
    assert store.installed() == []
    assert store.free_bytes() > 0
    assert not (tmp_path / "not").exists()
    assert store.pull(BOXED, unheard).spec.id == BOXED


def test_a_split_gguf_file_is_refused_with_what_to_do(tmp_path: Path, store: ModelStore) -> None:
    parts = [f"big-0000{number}-of-00002.gguf" for number in (1, 2)]
    write(tmp_path / "folder", dict.fromkeys(parts, gguf(GGUF_FIELDS, {"a": (2,)})))
    write(tmp_path, {parts[0]: gguf(GGUF_FIELDS, {"a": (2,)})})
    for name in ("folder", parts[0].removesuffix(".gguf")):
        with pytest.raises(ModelLoadFailed, match=r"does not load parts.*llama-gguf-split --merge"):
            store.find(name)

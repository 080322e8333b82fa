"""Finding, removing, and names that must never become paths."""

from pathlib import Path

import pytest

from domain.errors import InvalidRequest, ModelNotFound
from models.catalog import Artefact, Catalog, CatalogEntry
from models.layout import Layout, key_of
from tests.fakes.registry import Registry
from tests.models.pulling import BOXED, GGUF, HUB_ONLY, PAIRED, everything_below, open_store, spec, unheard

HOSTILE = [
    "..",
    "../x",
    "../../etc/passwd",
    "/etc/passwd",
    "a/../../b",
    "a..b",
    "a\\b",
    "a\0b",
    "a\nb",
    ".ingle",
    ".ingle/manifests",
    "a/b/c/d",
    "a:b:c",
    "a:..",
    "-rf",
    "~root",
    "%2e%2e/x",
    "a b",
    "",
    "ä",
    "x" * 81,
    "127.0.0.1:1/x/y",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_verb_lets_a_hostile_name_near_the_disk(
    tmp_path: Path, registry: Registry, catalog: Catalog, name: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    store = open_store(tmp_path / "models", registry, catalog)
    with pytest.raises(InvalidRequest, match="invalid model name"):
        store.pull(name, unheard)
    with pytest.raises(InvalidRequest, match="invalid model name"):
        key_of(name)
    with pytest.raises(ModelNotFound):
        store.find(name)
    with pytest.raises(ModelNotFound):
        store.remove(name)
    assert everything_below(tmp_path) == {"outside"}
    assert registry.seen == []


def test_a_name_too_long_for_a_file_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="at most 200 characters"):
        key_of("/".join(["x" * 80] * 3))


def test_different_names_have_different_keys_and_case_does_not_count() -> None:
    names = ["a:b", "a/b", "a.b", "a-b", "a_b", "hf.co/a/b:c"]
    assert len({key_of(name) for name in names}) == len(names)
    assert key_of("HF.co/A/b:C") == key_of("hf.co/a/b:c")


def test_every_spelling_of_a_name_finds_the_model(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    store = open_store(tmp_path, registry, catalog, aliases={"Qwen-Model_Full": BOXED})
    store.pull(BOXED, unheard)
    for name in ("boxed:1", "BOXED:1", "boxed", "box", "org/Boxed", "qwen-model_full", " boxed:1 "):
        assert store.find(name).spec.id == BOXED


def test_the_operators_alias_is_stronger_than_the_catalogues(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    store = open_store(tmp_path, registry, catalog, aliases={"box": PAIRED})
    store.pull(PAIRED, unheard)
    assert store.find("box").spec.id == PAIRED


def test_a_model_that_could_be_pulled_is_told_as_such(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    store = open_store(tmp_path, registry, catalog, aliases={"*": BOXED})
    with pytest.raises(ModelNotFound, match=r"run `ingle models pull boxed:1`"):
        store.find("box")


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    store = open_store(tmp_path, registry, catalog)
    with pytest.raises(ModelNotFound) as caught:
        store.find("pared")
    assert caught.value.details["nearest"] == ["paired"]


def test_a_name_in_an_error_is_short_and_printable(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    with pytest.raises(ModelNotFound) as caught:
        open_store(tmp_path, registry, catalog).find("a\x1b[31m\n" + "b" * 10_000)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_known_lists_the_catalogue_whatever_is_installed(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    store = open_store(tmp_path, registry, catalog)
    store.pull(PAIRED, unheard)
    assert [entry.spec.id for entry in store.known()] == [BOXED, PAIRED, HUB_ONLY]


# -- removing ---------------------------------------------------------------------------------------------


def test_a_removed_model_is_gone_with_its_files_and_converted_copies(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    store = open_store(tmp_path, registry, catalog)
    model = store.pull(BOXED, unheard)
    copy = store.converted_dir(model, "int8-v1")
    copy.mkdir(parents=True)
    (copy / "weights").write_bytes(b"converted")
    assert store.remove("box").spec.id == BOXED
    assert store.installed() == []
    assert everything_below(tmp_path) == set()
    with pytest.raises(ModelNotFound, match="not installed"):
        store.remove(BOXED)
    assert store.pull(BOXED, unheard).files[0].path.read_bytes() == GGUF


def test_files_that_another_name_uses_stay(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    boxed = catalog.get(BOXED)
    assert boxed is not None
    twin = CatalogEntry(spec("twin:1"), (), (Artefact(boxed.artefacts[0].files, boxed.artefacts[0].mirrors),))
    store = open_store(tmp_path, registry, Catalog((boxed, twin)))
    first = store.pull(BOXED, unheard)
    requests = len(registry.seen)
    second = store.pull("twin:1", unheard)
    assert second.digest == first.digest
    assert len(registry.seen) == requests, "the bytes are here already"
    copy = store.converted_dir(second, "v1")
    copy.mkdir(parents=True)
    store.remove(BOXED)
    store.verify(store.find("twin:1"))
    assert copy.is_dir()
    store.remove("twin:1")
    assert not copy.exists()
    assert everything_below(tmp_path) == set()


def test_a_converted_copy_is_kept_apart_for_each_layout_and_made_by_nobody(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    store = open_store(tmp_path, registry, catalog)
    model = store.pull(BOXED, unheard)
    assert store.converted_dir(model, "int8-v1") != store.converted_dir(model, "int8-v2")
    assert not store.converted_dir(model, "int8-v1").parent.exists()
    with pytest.raises(ValueError, match="cannot name a layout"):
        store.converted_dir(model, "../x")


# -- manifests that somebody damaged ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": 2}',
        '{"version": 1, "model": {}, "files": [], "origin": {}, "pulled_at": 0}',
        "[" * 100_000,
    ],
)
def test_a_manifest_that_cannot_be_read_is_passed_over(
    tmp_path: Path, registry: Registry, catalog: Catalog, content: str
) -> None:
    store = open_store(tmp_path, registry, catalog)
    store.pull(PAIRED, unheard)
    manifests = Layout(tmp_path).manifests
    (manifests / "boxed@1.json").write_text(content)
    assert [model.spec.id for model in store.installed()] == [PAIRED]
    assert store.pull(BOXED, unheard).spec.id == BOXED


@pytest.mark.parametrize("name", ["../../outside.json", "/outside.json", "a\\\\b.json", "x.pkl"])
def test_a_manifest_naming_files_elsewhere_is_passed_over(
    tmp_path: Path, registry: Registry, catalog: Catalog, name: str
) -> None:
    store = open_store(tmp_path, registry, catalog)
    store.pull(BOXED, unheard)
    manifest = Layout(tmp_path).manifests / "boxed@1.json"
    manifest.write_text(manifest.read_text().replace("boxed.gguf", name))
    assert open_store(tmp_path, registry, catalog).installed() == []


def test_a_manifest_under_another_models_name_is_passed_over(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    store = open_store(tmp_path, registry, catalog)
    store.pull(BOXED, unheard)
    manifest = Layout(tmp_path).manifests / "boxed@1.json"
    manifest.rename(manifest.with_name("other.json"))
    assert store.installed() == []

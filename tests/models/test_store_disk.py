"""The disk: full, unusable, and swept of what nobody needs."""

import errno
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from domain.errors import DownloadFailed, InsufficientStorage
from models.catalog import Catalog, CatalogFile, Mirror
from models.layout import Layout
from models.sources.registries import registries
from models.sources.source import Cancellation, DownloadPlan, Resource, Source, Transfer
from models.store import ModelStore
from models.sweep import sweep
from tests.fakes.registry import Registry
from tests.models.pulling import BOXED, HASTY, HUB_ONLY, ROOMY, everything_below, open_store, unheard

DAY = 86_400.0


class FillingDisk:
    """A source whose second download finds the disk full."""

    label = "a source"

    def __init__(self, source: Source) -> None:
        self._source = source
        self._downloads = 0

    def plan(self, mirror: Mirror, wanted: Sequence[CatalogFile], cancellation: Cancellation) -> DownloadPlan:
        return self._source.plan(mirror, wanted, cancellation)

    def download(self, resource: Resource, target: Path, transfer: Transfer) -> None:
        self._downloads += 1
        if self._downloads == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._source.download(resource, target, transfer)


def test_a_disk_that_fills_up_ends_the_pull_and_gets_its_room_back(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    index = registries(index_url=registry.index_url, hub_url=registry.hub_url, patience=HASTY)["index"]
    store = ModelStore(tmp_path, catalog, {"index": FillingDisk(index)}, limits=ROOMY)
    with pytest.raises(InsufficientStorage, match="the disk is full"):
        store.pull(BOXED, unheard)
    assert everything_below(tmp_path) == set()
    assert store.pull(BOXED, unheard).spec.id == BOXED, "there is room again"


def test_a_models_folder_that_cannot_be_used_says_so(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    (tmp_path / ".ingle").write_text("a file where a folder should be")
    store = open_store(tmp_path, registry, catalog)
    assert store.installed() == []
    with pytest.raises(DownloadFailed, match=r"the models folder cannot be used: (Not a directory|File exists)"):
        store.pull(BOXED, unheard)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def _put(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "part").write_bytes(b"some bytes")
    return folder


def test_a_download_that_nobody_continued_for_two_weeks_goes(layout: Layout) -> None:
    folder = _put(layout.staging / "boxed@1")
    sweep(layout, (), now=time.time() + 13 * DAY)
    assert folder.exists()
    sweep(layout, (), now=time.time() + 15 * DAY)
    assert not folder.exists()


def test_a_download_that_somebody_is_at_work_on_stays(layout: Layout) -> None:
    folder = _put(layout.staging / "boxed@1")
    with layout.lock("boxed@1"):
        sweep(layout, (), now=time.time() + 15 * DAY)
    assert folder.exists()


def test_artefacts_and_copies_that_no_model_uses_go_after_a_day(
    tmp_path: Path, layout: Layout, registry: Registry, catalog: Catalog
) -> None:
    model = open_store(tmp_path, registry, catalog).pull(BOXED, unheard)
    placed, lost = "1" * 64, "2" * 64
    orphan = _put(layout.artefacts / lost)
    copies = {digest: _put(layout.converted / f"{digest}-v1") for digest in (model.digest, placed, lost)}
    stranger = _put(layout.converted / "notes")
    sweep(layout, [placed])
    assert orphan.exists()
    assert all(copy.exists() for copy in copies.values())
    sweep(layout, [placed], now=time.time() + 2 * DAY)
    assert not orphan.exists()
    assert [digest for digest, copy in copies.items() if copy.exists()] == [model.digest, placed]
    assert stranger.exists()
    assert model.files[0].path.exists()


def test_the_next_start_sweeps_and_makes_no_folder_where_there_is_none(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    store = open_store(tmp_path, registry, catalog)
    store.sweep()
    assert list(tmp_path.iterdir()) == []
    store.pull(BOXED, unheard)
    half = tmp_path / ".ingle" / "converted" / f".{'4' * 64}-v1"
    _put(half)
    store.sweep()
    assert half.exists(), "somebody may be at work on it"
    store.verify(store.find(BOXED))


def test_half_a_conversion_goes_after_a_day(
    layout: Layout, tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    model = open_store(tmp_path, registry, catalog).pull(BOXED, unheard)
    half = _put(layout.converted / f".{model.digest}-v1")
    sweep(layout, (), now=time.time() + DAY / 2)
    assert half.exists()
    sweep(layout, (), now=time.time() + 2 * DAY)
    assert not half.exists()


def test_nothing_is_swept_while_a_manifest_cannot_be_read(layout: Layout) -> None:
    orphan = _put(layout.artefacts / ("3" * 64))
    layout.manifests.mkdir(parents=True)
    (layout.manifests / "from-the-future.json").write_text('{"version": 2}')
    sweep(layout, (), now=time.time() + 2 * DAY)
    assert orphan.exists()


def test_an_artefact_whose_manifest_was_never_written_is_taken_up(
    tmp_path: Path, layout: Layout, registry: Registry, catalog: Catalog
) -> None:
    store = open_store(tmp_path, registry, catalog)
    store.pull(BOXED, unheard)
    (layout.manifests / "boxed@1.json").unlink()
    assert store.installed() == []
    before = len(registry.seen)
    store.verify(store.pull(BOXED, unheard))
    assert len(registry.seen) == before


def test_files_of_another_pull_do_not_slip_into_a_model(
    tmp_path: Path, layout: Layout, registry: Registry, catalog: Catalog
) -> None:
    staged = _put(layout.staging / "hub@1" / "files")
    (staged / "deep").mkdir()
    (staged / "config.json").symlink_to("/etc/hostname")
    model = open_store(tmp_path, registry, catalog).pull(HUB_ONLY, unheard)
    assert everything_below(model.directory) == {"model.safetensors", "config.json"}
    assert not (model.directory / "config.json").is_symlink()
    assert not (model.directory / "deep").exists()

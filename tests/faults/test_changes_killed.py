"""Deleting, copying and making models, stopped at any moment: the store reads well, and nothing is half there."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.catalog import Catalog
from models.layout import Layout
from models.store import ModelStore
from models.sweep import sweep
from tests.fakes.registry import Registry
from tests.faults.dying import NO_ROOM, Work, changing, copy, create, pull, remove
from tests.models.pulling import BOXED, GGUF, PAIRED, everything_below, open_store, unheard

LATER = 3 * 86_400.0


@pytest.fixture(autouse=True)
def _without_complaint(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whoever reads the folder afterwards finds nothing to warn of."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def names(store: ModelStore) -> set[str]:
    return {model.spec.id for model in store.installed()}


def check_whole(store: ModelStore) -> None:
    for model in store.installed():
        store.verify(model)
        assert model.files[0].path.read_bytes() == GGUF or model.spec.id == PAIRED


@pytest.mark.parametrize(
    ("work", "after"),
    [(remove, set()), (copy, {BOXED, "twin"}), (create, {BOXED, "pirate"})],
    ids=["remove", "copy", "create"],
)
def test_a_change_killed_before_any_change_of_the_disk_has_happened_or_not(
    disk: Path, registry: Registry, catalog: Catalog, work: Work, after: set[str]
) -> None:
    first = disk / "first"
    store = open_store(first, registry, catalog)
    copies = store.converted_dir(store.pull(BOXED, unheard), "v1")
    copies.mkdir(parents=True)
    (copies / "weights").write_bytes(b"converted")
    moment, completed = 0, False
    while not completed:
        moment += 1
        root = disk / str(moment)
        shutil.copytree(first, root)
        with changing(root, registry, catalog, work, BOXED, dies_at=moment) as process:
            process.join(20)
            completed = process.exitcode == 0
        store = open_store(root, registry, catalog)
        assert names(store) in ({BOXED}, after), f"moment {moment}"
        check_whole(store)
        if names(store) == {BOXED} != after:
            work(store, BOXED)
        assert names(store) == after
        check_whole(store)
        store.sweep()
        check_whole(store)
        sweep(Layout(root), (), now=root.stat().st_mtime + LATER)
        left = {Path(path).parts[1] for path in everything_below(root)}
        assert left == ({"manifests", "artefacts", "verified", "converted"} if after else set()), f"moment {moment}"
        assert not list(Layout(root).manifests.glob("*.tmp"))
    assert moment > 3, "so many steps change the disk at least"


@pytest.mark.parametrize("work", [copy, create], ids=["copy", "create"])
def test_a_full_disk_is_told_and_leaves_no_half_model(
    disk: Path, registry: Registry, catalog: Catalog, work: Work
) -> None:
    first = disk / "first"
    open_store(first, registry, catalog).pull(BOXED, unheard)
    before = everything_below(first)
    refused = 0
    for moment in range(1, 8):
        root = disk / str(moment)
        shutil.copytree(first, root)
        with changing(root, registry, catalog, work, BOXED, fills_at=moment) as process:
            process.join(20)
            assert process.exitcode in (0, NO_ROOM), f"moment {moment}"
        if process.exitcode == NO_ROOM:
            refused += 1
            assert everything_below(root) == before, f"moment {moment}"
        else:
            assert names(open_store(root, registry, catalog)) > {BOXED}
    assert refused >= 2, "so many steps need room at least"


def test_a_pull_beside_a_removal_leaves_a_whole_model_or_none(disk: Path, registry: Registry, catalog: Catalog) -> None:
    for _ in range(5):
        open_store(disk, registry, catalog).pull(BOXED, unheard)
        with (
            changing(disk, registry, catalog, remove, BOXED) as removal,
            changing(disk, registry, catalog, pull, BOXED) as pulling,
        ):
            removal.join(20)
            pulling.join(20)
        store = open_store(disk, registry, catalog)
        check_whole(store)
        assert names(store) <= {BOXED}

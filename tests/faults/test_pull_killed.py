"""A pull that is killed at any moment leaves a store that reads well, and a later pull completes it."""

import logging
from pathlib import Path

import pytest

from models.catalog import Catalog
from tests.fakes.registry import Fault, Hold, Registry
from tests.faults.dying import changing, pull
from tests.models.pulling import (
    BOXED,
    FIRST_WHEEL,
    GGUF,
    HUB_ONLY,
    HUB_WEIGHTS,
    PAIRED,
    SECOND_WHEEL,
    everything_below,
    open_store,
    unheard,
)


@pytest.mark.parametrize("percent", [10, 50, 99])
def test_a_pull_killed_while_it_downloads_is_continued_by_the_next(
    tmp_path: Path, registry: Registry, catalog: Catalog, percent: int
) -> None:
    size = len(registry.files[FIRST_WHEEL])
    sent = size * percent // 100
    hold = Hold()
    registry.fail(FIRST_WHEEL, Fault(after=sent, hold=hold))
    staged = tmp_path / ".ingle" / "staging" / "boxed@1" / "resources"
    with changing(tmp_path, registry, catalog, pull, BOXED) as process:
        assert hold.reached.wait(20)
        while not any(path.stat().st_size for path in staged.glob("*")):
            assert process.is_alive()
        process.kill()
        process.join()
    hold.release()
    store = open_store(tmp_path, registry, catalog)
    assert store.installed() == []
    model = store.pull(BOXED, unheard)
    store.verify(model)
    assert (model.directory / "boxed.gguf").read_bytes() == GGUF
    asked = registry.requests(FIRST_WHEEL)[-1].range
    assert asked is not None
    assert 0 < int(asked.removeprefix("bytes=").removesuffix("-")) <= sent


@pytest.mark.parametrize("name", [PAIRED, HUB_ONLY])
def test_a_pull_killed_before_any_change_of_the_disk_can_be_done_again(
    disk: Path, registry: Registry, catalog: Catalog, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    moment, completed = 0, False
    while not completed:
        moment += 1
        root = disk / str(moment)
        with changing(root, registry, catalog, pull, name, dies_at=moment) as process:
            process.join(20)
            completed = process.exitcode == 0
        store = open_store(root, registry, catalog)
        store.sweep()
        for model in store.installed():
            store.verify(model)
        model = store.pull(name, unheard)
        store.verify(model)
        names = {Path(path).parts[1] for path in everything_below(root)}
        assert names == {"manifests", "artefacts", "verified"}, f"moment {moment} leaves {names}"
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert moment > 12, "so many steps change the disk at least"


def test_two_processes_make_one_download(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    hold = Hold()
    registry.fail(SECOND_WHEEL, Fault(after=1000, hold=hold))
    with changing(tmp_path, registry, catalog, pull, BOXED) as first:
        assert hold.reached.wait(20)
        with changing(tmp_path, registry, catalog, pull, BOXED) as second:
            registry.fail(FIRST_WHEEL, Fault(status=404))
            second.join(0.5)
            assert second.is_alive(), "it waits for the first"
            hold.release()
            first.join(20)
            second.join(20)
            assert (first.exitcode, second.exitcode) == (0, 0)
    assert len(registry.requests(FIRST_WHEEL)) == len(registry.requests(SECOND_WHEEL)) == 1


def test_a_second_process_takes_over_when_the_first_is_killed(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    hold = Hold()
    registry.fail(HUB_WEIGHTS, Fault(after=50_000, hold=hold))
    with changing(tmp_path, registry, catalog, pull, HUB_ONLY) as first:
        assert hold.reached.wait(20)
        with changing(tmp_path, registry, catalog, pull, HUB_ONLY) as second:
            first.kill()
            second.join(20)
            assert second.exitcode == 0
    hold.release()
    store = open_store(tmp_path, registry, catalog)
    store.verify(store.find(HUB_ONLY))

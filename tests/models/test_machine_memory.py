"""How much memory there is, with limits around us, and what libraries say when there is none."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from domain.errors import ModelLoadFailed
from models import memory


def cgroup(folder: Path, limit: str, current: int = 0, inactive: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(limit + "\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {inactive}\n")
    return folder


def test_the_tightest_limit_around_us_counts_and_files_in_memory_do_not(tmp_path: Path) -> None:
    own = cgroup(tmp_path / "system.slice" / "ingle.service", str(1000), current=700, inactive=300)
    around = cgroup(tmp_path / "system.slice", str(2000), current=1500)
    assert memory.within([own], 8000, 7000) == (1000, 600)
    assert memory.within([own, around], 8000, 7000) == (1000, 500)
    assert memory.within([own, around], 8000, 100) == (1000, 100)


def test_without_a_limit_the_machine_counts(tmp_path: Path) -> None:
    free = cgroup(tmp_path / "free", "max", current=700)
    assert memory.within([free, tmp_path / "gone"], 8000, 7000) == (8000, 7000)


def test_what_is_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    assert memory.within([cgroup(tmp_path, str(1000), current=1200)], 8000, 7000) == (1000, 0)


def test_the_figures_of_this_machine_agree() -> None:
    usage = memory.usage()
    assert 0 < usage.rss < usage.total
    assert 0 < usage.available < usage.total
    assert 0.0 < usage.used_share < 1.0


def wrapped() -> None:
    try:
        raise MemoryError
    except MemoryError as error:
        raise ModelLoadFailed("it cannot be loaded") from error


def hidden() -> None:
    try:
        raise RuntimeError("std::bad_alloc")
    except RuntimeError:
        raise ModelLoadFailed("it cannot be loaded") from None


@pytest.mark.parametrize("failing", [wrapped, hidden, lambda: torch.empty(1 << 60)])
def test_memory_that_ran_out_is_known_however_it_is_told(failing: Callable[[], object]) -> None:
    with pytest.raises((ModelLoadFailed, RuntimeError)) as caught:
        failing()
    assert memory.ran_out(caught.value)
    assert memory.ran_out(OSError(errno.ENOMEM, "Cannot allocate memory"))


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), OSError(errno.ENOSPC, "full"), ValueError("bad_alloc")]
)
def test_other_failures_are_not_taken_for_it(error: Exception) -> None:
    assert not memory.ran_out(error)

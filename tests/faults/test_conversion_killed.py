"""An engine's own copy of a model, stopped at any moment while it is written: whole or made anew, never believed half.

Each moment is a fork of one process, which imports the libraries once for all of them.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.dying import NO_ROOM
from tests.models.running import load_tiny
from tests.models.tiny import save_tiny

KILLED = -9
CONVERT = """
import os, resource, sys
from pathlib import Path

import torch

torch.set_num_threads(1)
from domain.errors import InsufficientStorage
from tests.faults.dying import NO_ROOM, die_at, fill_at
from tests.models.running import load_tiny


def small_files(moment):
    if moment == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def convert(target, stop, moment):
    stop(moment)
    try:
        load_tiny(Path(sys.argv[1]), int8=True, converted=target / str(moment))
    except InsufficientStorage:
        os._exit(NO_ROOM)
    except BaseException as error:
        print(stop.__name__, moment, repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


for stop in (die_at, fill_at, small_files):
    moment = successes = 0
    while successes < 2:
        moment += 1
        child = os.fork()
        if child == 0:
            convert(Path(sys.argv[2]) / stop.__name__, stop, moment)
        end = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        successes = successes + 1 if end == 0 else 0
        print(stop.__name__, end, flush=True)
"""


@dataclass(frozen=True)
class Conversions:
    """Where the model is, where its copies are, and how the processes ended that were stopped at moment 1, 2, …"""

    source: Path
    target: Path
    ends: dict[str, list[int]]

    def left(self, how: str, moment: int) -> list[Path]:
        """What there is of the copy that was stopped at `moment`."""
        return sorted((self.target / how / str(moment)).glob("*"))


@pytest.fixture(scope="module")
def conversions(tmp_path_factory: pytest.TempPathFactory) -> Conversions:
    folder = tmp_path_factory.mktemp("conversions")
    source, target = save_tiny(folder / "model"), folder / "converted"
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CONVERT, source, target],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=110,
    )
    assert (result.returncode, result.stderr) == (0, "")
    ends: dict[str, list[int]] = {}
    for line in result.stdout.splitlines():
        how, _, end = line.partition(" ")
        ends.setdefault(how, []).append(int(end))
    return Conversions(source, target, ends)


def test_a_conversion_killed_at_any_moment_is_made_anew(conversions: Conversions) -> None:
    ends = conversions.ends["die_at"]
    assert ends.count(KILLED) > 5, "so many steps change the disk at least"
    assert set(ends) == {KILLED, 0}
    for moment in (1, ends.count(KILLED) - 1, ends.count(KILLED), len(ends)):
        copy = conversions.target / "die_at" / str(moment)
        assert load_tiny(conversions.source, int8=True, converted=copy) is not None


def test_a_conversion_that_finds_the_disk_full_says_so_and_leaves_nothing(conversions: Conversions) -> None:
    ends = conversions.ends["fill_at"]
    assert ends.count(NO_ROOM) > 3, "so many steps need room at least"
    assert set(ends) == {NO_ROOM, 0}
    for moment, end in enumerate(ends, start=1):
        assert end == 0 or conversions.left("fill_at", moment) == [], f"moment {moment}"


def test_a_disk_that_fills_up_under_the_weights_is_told_too(conversions: Conversions) -> None:
    assert conversions.ends["small_files"] == [NO_ROOM, 0, 0]
    assert conversions.left("small_files", 1) == []

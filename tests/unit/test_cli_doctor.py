"""`ingle doctor`: findings from figures."""

from dataclasses import replace

import pytest

from application.ports import Gpu, SystemInfo
from domain.memory import MemoryUsage
from ingle.commands.doctor import ADVICE, GOOD, MISSING, device, disk, machine, models
from ingle.settings import Settings

GIB = 1 << 30
INFO = SystemInfo("a cpu", 4, 2, ("avx2", "amx"), (), {"cpu": "int8 rows"}, {"torch": "2.13.0"}, 50 * GIB)
SETTINGS = Settings(default_model="a:1b", default_speech_model="ear:base", disk_floor_gb=2)


def test_the_machine_is_told_with_its_kernels_and_gpus() -> None:
    info = replace(INFO, gpus=(Gpu(0, "a gpu", 24 * GIB, "8.9"),))
    said = {finding.what: finding.detail for finding in machine(info, MemoryUsage(1, 2, 16 * GIB, 8 * GIB))}
    assert said["cpu"] == "a cpu, 4 cores, 2 threads for kernels"
    assert said["instructions"] == "avx2 amx"
    assert said["kernel cpu"] == "int8 rows"
    assert said["cuda:0"] == "a gpu, 25.8 GB, capability 8.9"
    assert said["torch"] == "2.13.0"


@pytest.mark.parametrize(
    ("wanted", "there_are", "verdict", "said"),
    [
        ("auto", ["cpu", "cuda:0"], GOOD, "auto chooses cuda:0"),
        ("auto", ["cpu"], GOOD, "auto chooses cpu"),
        ("cuda", ["cpu", "cuda:0"], GOOD, "cuda"),
        ("cuda:0", ["cpu", "cuda:0"], GOOD, "cuda:0"),
        ("cuda", ["cpu"], MISSING, "cuda is not here: set INGLE_DEVICE_TYPE to cpu or auto"),
        ("cuda:1", ["cpu", "cuda:0"], MISSING, "cuda:1 is not here: set INGLE_DEVICE_TYPE to cpu or cuda:0 or auto"),
    ],
)
def test_the_device_that_loads_use_is_there_or_missing(
    wanted: str, there_are: list[str], verdict: str, said: str
) -> None:
    finding = next(device(wanted, there_are))
    assert (finding.verdict, finding.detail) == (verdict, said)


def test_no_gpu_is_a_note_and_nothing_worse() -> None:
    assert [finding.verdict for finding in device("auto", ["cpu"])] == [GOOD, ADVICE]


def test_a_default_model_that_is_not_installed_is_missing_with_the_command() -> None:
    found = list(models(SETTINGS, ["a:1b", "b:1b"]))
    assert [finding.detail for finding in found if finding.verdict == GOOD] == ["a:1b", "b:1b"]
    [missing] = [finding for finding in found if finding.verdict == MISSING]
    assert missing.detail == "ear:base is not installed: run `ingle models pull ear:base`"


@pytest.mark.parametrize(("free", "verdict"), [(2 * GIB, GOOD), (2 * GIB - 1, MISSING)])
def test_a_disk_below_the_floor_is_missing(free: int, verdict: str) -> None:
    assert [finding.verdict for finding in disk(free, SETTINGS)] == [verdict]

"""`ingle doctor`: what this machine has, and what is missing for Ingle to do its work."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click
from rich.filesize import decimal
from rich.table import Table

from application.ports import SystemInfo
from domain.memory import MemoryUsage
from ingle.cli import Invocation
from ingle.commands.in_process import application
from ingle.commands.terminal import output
from ingle.settings import Settings

GOOD, ADVICE, MISSING = "ok", "note", "MISSING"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `verdict` is GOOD, ADVICE or MISSING."""

    verdict: str
    what: str
    detail: str


@click.command("doctor")
@click.option("--device", help="Look whether this device can be used (default: INGLE_DEVICE_TYPE).")
@click.pass_obj
def command(invocation: Invocation, device: str | None) -> int:
    """Look at this machine: device, kernels, models, memory, disk. Exit 1 if something needed is missing.

    \b
    Examples:
      ingle doctor
      ingle doctor --device cuda
    """
    found = invocation.read(device_type=device)
    findings = asyncio.run(_look(found.settings))
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        table.add_row(finding.verdict, finding.what, finding.detail)
    output().print(table)
    return 1 if any(finding.verdict == MISSING for finding in findings) else 0


async def _look(settings: Settings) -> Sequence[Finding]:
    async with application(settings) as built:
        probe, store = built.probe, built.store
        installed = [model.spec.id for model in store.installed()]
        return [
            *machine(probe.system_info(), built.pool.repository.memory()),
            *device(settings.device_type, probe.devices()),
            *models(settings, installed),
            *disk(store.free_bytes(), settings),
        ]


def machine(info: SystemInfo, memory: MemoryUsage) -> Iterator[Finding]:
    """What there is."""
    yield Finding(GOOD, "python", sys.version.split()[0])
    yield Finding(GOOD, "cpu", f"{info.cpu_model}, {info.cpu_cores} cores, {info.cpu_threads} threads for kernels")
    yield Finding(GOOD, "instructions", " ".join(info.isa) or "-")
    for kernel, choice in info.kernels.items():
        yield Finding(GOOD, f"kernel {kernel}", choice)
    yield Finding(GOOD, "memory", f"{decimal(memory.available)} of {decimal(memory.total)} free")
    for gpu in info.gpus:
        yield Finding(GOOD, f"cuda:{gpu.index}", f"{gpu.name}, {decimal(gpu.total_bytes)}, capability {gpu.capability}")
    for name, version in info.versions.items():
        yield Finding(GOOD, name, version)


def device(wanted: str, there_are: Sequence[str]) -> Iterator[Finding]:
    """Whether the device that loads use is here."""
    if wanted == "auto":
        yield Finding(GOOD, "device", f"auto chooses {there_are[-1] if len(there_are) == 1 else there_are[1]}")
        if len(there_are) == 1:
            yield Finding(ADVICE, "gpu", "none that torch can use: models run on the CPU")
    elif wanted in there_are or (wanted == "cuda" and len(there_are) > 1):
        yield Finding(GOOD, "device", wanted)
    else:
        yield Finding(
            MISSING, "device", f"{wanted} is not here: set INGLE_DEVICE_TYPE to {' or '.join(there_are)} or auto"
        )


def models(settings: Settings, installed: Sequence[str]) -> Iterator[Finding]:
    """Which models are installed, and whether the default ones are."""
    for name in installed:
        yield Finding(GOOD, "model", name)
    for purpose, name in (("text", settings.default_model), ("speech", settings.default_speech_model)):
        if name not in installed:
            yield Finding(MISSING, f"{purpose} model", f"{name} is not installed: run `ingle models pull {name}`")


def disk(free: int, settings: Settings) -> Iterator[Finding]:
    """Whether another model fits."""
    floor = settings.disk_floor_gb * (1 << 30)
    where = f"{decimal(free)} free in {settings.models_dir}"
    if free < floor:
        yield Finding(MISSING, "disk", f"{where}: pulls need more than {settings.disk_floor_gb:g} GiB")
    else:
        yield Finding(GOOD, "disk", where)

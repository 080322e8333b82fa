"""What machine this is: processor, GPUs, kernels, versions."""

import platform
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from application.ports import SystemInfo
from models import device
from models.text import kernel_choice
from models.text.native.library import why_not

_CPUINFO = Path("/proc/cpuinfo")
# What the kernels ask for; a processor has a hundred more flags that nobody here reads.
_ISA = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16", "asimd")
_LIBRARIES = ("torch", "transformers", "ctranslate2", "faster-whisper")


class MachineProbe:
    """Implements `application.ports.SystemProbe` by looking; what cannot change is looked at once."""

    def __init__(self, ingle_version: str, cpu_threads: int, free_bytes: Callable[[], int]) -> None:
        self._version = ingle_version
        self._cpu_threads = cpu_threads
        self._free_bytes = free_bytes

    def system_info(self) -> SystemInfo:
        """The machine as it is now."""
        return SystemInfo(
            cpu_model=self._cpu["model name"],
            cpu_cores=psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
            cpu_threads=self._cpu_threads,
            isa=tuple(flag for flag in _ISA if flag in self._cpu["flags"].split()),
            gpus=tuple(device.gpus()),
            kernels=self._kernels,
            versions=self._versions,
            models_free_bytes=self._free_bytes(),
        )

    def devices(self) -> Sequence[str]:
        """The devices that a load may name, `cpu` first."""
        return device.names()

    @cached_property
    def _cpu(self) -> dict[str, str]:
        """The first processor's entry; other systems than Linux have no such file."""
        found = {"model name": platform.processor() or platform.machine(), "flags": ""}
        if _CPUINFO.exists():
            for line in _CPUINFO.read_text(encoding="utf-8").partition("\n\n")[0].splitlines():
                name, _, value = line.partition(":")
                found[name.strip()] = value.strip()
            found["flags"] = found["flags"] or found.get("Features", "")
        return found

    @cached_property
    def _kernels(self) -> dict[str, str]:
        choice = kernel_choice.chosen()
        text = choice.reason
        if choice.precision.int8:
            layers = f"PyTorch's layers: {why_not()}" if why_not() else "native layers for the families that they know"
            text = f"{text}; {layers}"
        times = ", ".join(f"{name} {1000 * taken:.2g}" for name, taken in kernel_choice.measured().items())
        text = f"{text}. Products of {kernel_choice.SHAPE} here, ms: {times}"
        wide = "bfloat16, or float16 on a card that lacks it"
        return {"cpu": text, "cuda": wide if torch.cuda.is_available() else "no CUDA device"}

    @cached_property
    def _versions(self) -> dict[str, str]:
        found = {library.replace("-", "_"): version(library) for library in _LIBRARIES}
        return {"ingle": self._version, "python": platform.python_version(), **found}

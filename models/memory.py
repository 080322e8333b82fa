"""How many bytes there are, who holds them, and how to give some back."""

import ctypes
import gc
import mmap
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from domain.memory import GpuMemory, MemoryUsage

_CGROUP = Path("/sys/fs/cgroup")


def usage() -> MemoryUsage:
    """This process and this machine, now; the cgroup's figures where it has a limit below the machine's."""
    memory = psutil.Process().memory_info()
    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    limit = _read_bytes(_CGROUP / "memory.max")
    if limit is not None and limit < total:
        used = _read_bytes(_CGROUP / "memory.current") or 0
        # Page cache of our own files counts as used there, though the kernel gives it back when asked.
        used -= _inactive_file_bytes()
        total, available = limit, min(available, max(0, limit - used))
    return MemoryUsage(memory.rss, memory.vms, total, available, tuple(_gpus()))


def trim() -> Sequence[str]:
    """Return what nobody needs to the machine; tells in words what was done. May take some 100 ms."""
    done = []
    if gc.collect():
        done.append("gc")
    if _malloc_trim():
        done.append("malloc_trim")
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        before = torch.cuda.memory_reserved()
        torch.cuda.empty_cache()
        if torch.cuda.memory_reserved() < before:
            done.append("cuda empty_cache")
    return done


def mapped_spans(path: Path) -> Sequence[range]:
    """The addresses at which `path` is mapped into this process; none where the system does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    name = str(path.resolve())
    spans = [line.split(maxsplit=1)[0] for line in lines if line.endswith(f" {name}")]
    return [range(int(span.partition("-")[0], 16), int(span.partition("-")[2], 16)) for span in spans]


def forget_pages(start: int, size: int) -> None:
    """Take the whole pages of an address range out of memory; the next access reads them from their file again.

    Only for memory that is mapped from a file (see `mapped_spans`) and was never written to: any other is wiped.
    """
    begin = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if begin < end and sys.platform.startswith("linux"):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


def _malloc_trim() -> bool:
    """Tell glibc to give back what was freed; other C libraries have no such call."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError):
        return False


def _gpus() -> Sequence[GpuMemory]:
    if not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        # The driver's figures: torch's own do not see CTranslate2's memory, nor other processes'.
        free, total = torch.cuda.mem_get_info(index)
        found.append(GpuMemory(index, torch.cuda.get_device_name(index), total, total - free))
    return found


def _read_bytes(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _inactive_file_bytes() -> int:
    try:
        lines = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)

"""How many bytes there are, who holds them, and how to give some back."""

import ctypes
import errno
import functools
import gc
import mmap
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from domain.memory import GpuMemory, MemoryUsage

_CGROUP = Path("/sys/fs/cgroup")
# torch's allocator, C++'s, mmap as safetensors tells of it, CTranslate2 and the CUDA runtime.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "cannot allocate memory", "bad_alloc", "out of memory")


def usage() -> MemoryUsage:
    """This process and this machine, now; those of its cgroups where they have limits below the machine's."""
    memory = psutil.Process().memory_info()
    machine = psutil.virtual_memory()
    total, available = within(_own_cgroups(), machine.total, machine.available)
    return MemoryUsage(memory.rss, memory.vms, total, available, tuple(_gpus()))


def within(cgroups: Sequence[Path], total: int, available: int) -> tuple[int, int]:
    """`total` and `available` bytes of the machine, as far as the limits of `cgroups` (v2) let us have them."""
    for cgroup in cgroups:
        limit = _read_bytes(cgroup / "memory.max")
        if limit is None:
            continue
        used = _read_bytes(cgroup / "memory.current") or 0
        # Page cache of our own files counts as used there, though the kernel gives it back when asked.
        used -= _inactive_file_bytes(cgroup)
        total, available = min(total, limit), min(available, max(0, limit - used))
    return total, available


@functools.cache
def _own_cgroups() -> Sequence[Path]:
    """Ours and those around it: a service has its limit in its own, a container mostly in what looks like the root."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return [_CGROUP]
    own = next((line.removeprefix("0::").strip("/") for line in lines if line.startswith("0::")), "")
    folder = _CGROUP / own
    return [one for one in (folder, *folder.parents) if one.is_relative_to(_CGROUP)]


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


def ran_out(error: BaseException) -> bool:
    """Whether `error`, or what it came from, says that there was no memory; libraries say so in many ways."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if isinstance(link, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(link, OSError) and link.errno == errno.ENOMEM:
            return True
        if isinstance(link, RuntimeError | OSError) and any(words in str(link).lower() for words in _NO_MEMORY):
            return True
        link = link.__cause__ or link.__context__
    return False


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


def _inactive_file_bytes(cgroup: Path) -> int:
    try:
        lines = (cgroup / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)

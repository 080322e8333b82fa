"""Which compute types a checkpoint may be loaded in, and which of them works. It loads nothing itself."""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from domain.rung import Rung, RungVerdict

T = TypeVar("T")
log = logging.getLogger(__name__)

CPU_LADDER = ("int8", "int16", "float32")
CUDA_LADDER = ("float16", "int8_float16", "int8_float32", "float32")


def ladder(device: str, wanted: str, supported: Collection[str]) -> Sequence[str]:
    """The compute types to try, best first: `wanted`, if the device has it, then what suits the device."""
    rungs = CPU_LADDER if device == "cpu" else CUDA_LADDER
    named = () if wanted == "auto" else (wanted,)
    return [rung for rung in dict.fromkeys((*named, *rungs)) if rung in supported]


class NoRungLeft(Exception):
    """No compute type works; the message says why the last one does not."""

    def __init__(self, reason: str, rungs: Sequence[Rung] = ()) -> None:
        super().__init__(reason)
        self.rungs = tuple(rungs)

    @property
    def out_of_memory(self) -> bool:
        """Whether it is for want of memory, so that room would help."""
        return bool(self.rungs) and self.rungs[-1].verdict is RungVerdict.NO_MEMORY


@dataclass(frozen=True, slots=True)
class Climbed(Generic[T]):
    """What was loaded, and every attempt up to it."""

    loaded: T
    rungs: tuple[Rung, ...]


def first_that_works(
    device: str,
    rungs: Sequence[str],
    load: Callable[[str], T],
    check: Callable[[T], str | None],
    drop: Callable[[T], None],
    clock: Callable[[], float] = time.monotonic,
) -> Climbed[T]:
    """What `load` gives for the first of `rungs` that fits into memory and that `check` finds nothing wrong with.

    What is not used goes to `drop`. Raises NoRungLeft, and what `load` raises for other reasons than memory.
    """
    tried: list[Rung] = []
    for rung in rungs:
        began = clock()
        try:
            loaded = _tried(rung, load, check, drop)
        except _Unused as error:
            log.warning("compute type %s is not used on %s: %s", rung, device, error)
            tried.append(Rung(device, rung, error.verdict, round(clock() - began, 3), str(error)))
        else:
            tried.append(Rung(device, rung, RungVerdict.USED, round(clock() - began, 3)))
            return Climbed(loaded, tuple(tried))
    if not tried:
        raise NoRungLeft("it supports none of the compute types that are tried")
    raise NoRungLeft(f"{tried[-1].compute_type} was tried last: {tried[-1].reason}", tried)


class _Unused(Exception):
    """The message says why a compute type is not used."""

    def __init__(self, verdict: RungVerdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict


def _tried(rung: str, load: Callable[[str], T], check: Callable[[T], str | None], drop: Callable[[T], None]) -> T:
    try:
        loaded = load(rung)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise _Unused(RungVerdict.NO_MEMORY, _reason(error)) from None
    verdict = RungVerdict.REJECTED
    try:
        wrong = check(loaded)
    except (MemoryError, RuntimeError) as error:
        # Some types are offered by a device that then has no kernels for them.
        wrong = _reason(error)
        if _is_out_of_memory(error):
            verdict = RungVerdict.NO_MEMORY
    if wrong is None:
        return loaded
    drop(loaded)
    raise _Unused(verdict, wrong)


def _reason(error: Exception) -> str:
    return str(error) or "the machine's memory is used up"


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error)

"""Brings a Whisper checkpoint in CTranslate2's layout into memory: local files only, no hub."""

import ctypes
import importlib.util
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

import ctranslate2

from domain.errors import InsufficientMemory, ModelLoadFailed
from domain.model import Model, ModelSpec
from domain.repositories import LoadProgress, OnLoadProgress
from domain.transcription import Caveat
from models import memory
from models.inference_thread import InferenceThread
from models.speech import self_test
from models.speech.abilities import Abilities
from models.speech.checkpoint import Checkpoint
from models.speech.decoder import AudioDecoder
from models.speech.engine import WhisperEngine
from models.speech.options import EngineOptions
from models.speech.whisper import WhisperEars

T = TypeVar("T")
log = logging.getLogger(__name__)

CPU_LADDER = ("int8", "int16", "float32")
CUDA_LADDER = ("float16", "int8_float16", "int8_float32", "float32")
_NICENESS = 10


def load_whisper(
    spec: ModelSpec,
    directory: Path,
    *,
    decoder: AudioDecoder,
    device: str,
    compute_type: str,
    cpu_threads: int,
    on_progress: OnLoadProgress,
    options: EngineOptions | None = None,
) -> WhisperEngine:
    """Load the checkpoint in `directory` on `device` (`cpu` or `cuda:N`). Blocks; no event loop is needed.

    `compute_type` is `auto` or a type of CTranslate2; one that the device lacks is replaced by the next best,
    and every answer says so. `decoder` stays the caller's and may be shared. Raises ModelLoadFailed naming the
    file that is missing or damaged, and InsufficientMemory.
    """
    started = time.monotonic()
    size = check_directory(spec.id, directory)
    on_progress(LoadProgress("weights", 0, size))
    thread = InferenceThread(f"speech {spec.id}")
    try:
        held_before = _bytes_held(device)
        model = thread.call_soon(lambda: _load(spec.id, directory, device, compute_type, cpu_threads)).result()
    except BaseException:
        thread.close()
        raise
    on_progress(LoadProgress("weights", size, size))
    used = str(model.model.compute_type)
    dtype, quantization = _precision(used)
    info = Model(spec).loaded(
        device=device,
        dtype=dtype,
        quantization=quantization,
        context_length=spec.context_length,
        memory_bytes=max(0, _bytes_held(device) - held_before),
        load_time_ms=round((time.monotonic() - started) * 1000),
    )
    return WhisperEngine(
        info,
        WhisperEars(model),
        Abilities.of(spec, model.languages()),
        decoder,
        thread,
        compute_type=used,
        caveats=_caveats(compute_type, used),
        options=(options or EngineOptions()).on(device, free_bytes=_bytes_free(device)),
    )


def check_directory(name: str, directory: Path) -> int:
    """Whether `directory` holds a whole checkpoint; the size of its weights in bytes.

    Raises ModelLoadFailed naming the file that is missing or damaged. Without these files CTranslate2 or
    faster-whisper would look for them at a model hub, or fail in the middle of a request.
    """
    vocabulary = next(
        (n for n in ("vocabulary.json", "vocabulary.txt") if (directory / n).is_file()), "vocabulary.json"
    )
    for file in ("model.bin", "config.json", "tokenizer.json", vocabulary):
        if not (directory / file).is_file() or (directory / file).stat().st_size == 0:
            raise ModelLoadFailed(f"'{name}' cannot be loaded: {file} is missing or empty. Pull the model again")
    # tokenizer.json is left to its own parser, which keeps what it parsed; here it would be parsed at each load.
    for file in ("config.json", vocabulary):
        if not file.endswith(".json"):
            continue
        try:
            content = json.loads((directory / file).read_bytes())
        except (ValueError, RecursionError):
            raise _damaged(name, file) from None
        if file == "config.json" and not (isinstance(content, dict) and content.get("alignment_heads")):
            raise ModelLoadFailed(
                f"'{name}' cannot be loaded: its config.json names no alignment_heads, so it is not a Whisper model in "
                "CTranslate2's layout"
            )
    return (directory / "model.bin").stat().st_size


def ladder(device: str, wanted: str, supported: Collection[str]) -> Sequence[str]:
    """The compute types to try, best first: `wanted`, if the device has it, then what suits the device."""
    rungs = CPU_LADDER if device == "cpu" else CUDA_LADDER
    named = () if wanted == "auto" else (wanted,)
    return [rung for rung in dict.fromkeys((*named, *rungs)) if rung in supported]


def _load(name: str, directory: Path, device: str, compute_type: str, cpu_threads: int) -> Checkpoint:
    """Runs on the owner thread, whose niceness CTranslate2's own threads inherit."""
    kind, _, index = device.partition(":")
    if kind == "cpu" and sys.platform == "linux":
        # So that the event loop and text generation win the cores.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
    if kind == "cuda":
        _preload_cublas()

    def load(rung: str) -> Checkpoint:
        return Checkpoint.load(
            directory, device=kind, device_index=int(index or 0), compute_type=rung, cpu_threads=cpu_threads
        )

    def check(loaded: Checkpoint) -> str | None:
        ears = WhisperEars(loaded)
        wrong = self_test.what_is_wrong(ears) if kind == "cuda" else None
        if wrong is not None:
            ears.close()
        return wrong

    try:
        return first_that_works(ladder(kind, compute_type, _supported(name, kind, int(index or 0))), load, check)
    except NoRungLeft as error:
        if error.out_of_memory:
            raise InsufficientMemory(f"'{name}' does not fit on {device}: {error}") from None
        raise ModelLoadFailed(f"'{name}' cannot be used on {device}: {error}") from None
    except RuntimeError as error:
        raise _refusal(name, device, str(error).replace(f"{directory}{os.sep}", "")) from None
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise _damaged(name, "tokenizer.json", str(error)) from None


class NoRungLeft(Exception):
    """No compute type works; the message says why the last one does not."""

    def __init__(self, reason: str, *, out_of_memory: bool) -> None:
        super().__init__(reason)
        self.out_of_memory = out_of_memory


def first_that_works(rungs: Sequence[str], load: Callable[[str], T], check: Callable[[T], str | None]) -> T:
    """What `load` gives for the first of `rungs` that fits into memory and that `check` finds nothing wrong with.

    Raises NoRungLeft, and what `load` raises for other reasons than memory.
    """
    reason, out_of_memory = "it supports none of the compute types that are tried", False
    for rung in rungs:
        try:
            loaded = load(rung)
        except MemoryError:
            reason, out_of_memory = "the machine's memory is used up", True
            continue
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            reason, out_of_memory = str(error), True
            continue
        wrong = check(loaded)
        if wrong is None:
            return loaded
        log.warning("compute type %s is not used: %s", rung, wrong)
        reason, out_of_memory = f"{rung} was tried on a known clip, and {wrong}", False
    raise NoRungLeft(reason, out_of_memory=out_of_memory)


def _supported(name: str, kind: str, index: int) -> Collection[str]:
    try:
        types: Collection[str] = ctranslate2.get_supported_compute_types(kind, index)
    except (RuntimeError, ValueError) as error:
        raise ModelLoadFailed(f"'{name}' cannot be loaded: CTranslate2 cannot use {kind}:{index} ({error})") from None
    return types


def _refusal(name: str, device: str, reason: str) -> ModelLoadFailed:
    """CTranslate2 says with one and the same exception that the device or that the weights are at fault."""
    if device != "cpu" and ("CUDA" in reason or "cublas" in reason.lower()):
        return ModelLoadFailed(f"'{name}' cannot be loaded: CTranslate2 cannot use {device} ({reason})")
    return _damaged(name, "model.bin", reason)


def _preload_cublas() -> None:
    """CTranslate2 looks for the CUDA 12 library by name; one that came as a wheel is found only if it is loaded."""
    try:
        package = importlib.util.find_spec("nvidia.cublas")
    except ModuleNotFoundError:
        return
    for location in (package.submodule_search_locations or ()) if package else ():
        for library in ("libcublasLt.so.12", "libcublas.so.12"):
            path = Path(location) / "lib" / library
            if path.is_file():
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _damaged(name: str, file: str, reason: str = "it cannot be read") -> ModelLoadFailed:
    return ModelLoadFailed(
        f"'{name}' cannot be loaded: {file} is damaged ({reason}). Remove the model and pull it again"
    )


def _caveats(wanted: str, used: str) -> tuple[Caveat, ...]:
    # "int8" is short for whatever goes with int8 on the device.
    if wanted == "auto" or used == wanted or used.startswith(f"{wanted}_"):
        return ()
    return (Caveat("compute_type_changed", f"compute type {wanted} is not available here: {used} is used"),)


def _precision(compute_type: str) -> tuple[str, str]:
    """(dtype, quantization) of a compute type, in the words of `domain.model.LoadOptions`."""
    first, _, second = compute_type.partition("_")
    return (second or "float32", first) if first.startswith("int") else (first, "none")


def _bytes_free(device: str) -> int:
    usage = memory.usage()
    return usage.available if device == "cpu" else usage.gpus[int(device.partition(":")[2])].free


def _bytes_held(device: str) -> int:
    usage = memory.usage()
    return usage.rss if device == "cpu" else usage.gpus[int(device.partition(":")[2])].used

"""Brings a Whisper checkpoint in CTranslate2's layout into memory: local files only, no hub."""

import ctypes
import importlib.util
import json
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ctranslate2

from domain.caveat import Caveat
from domain.errors import InsufficientMemory, ModelLoadFailed
from domain.memory import GpuMemory
from domain.model import Model, ModelSpec
from domain.repositories import LoadProgress, OnLoadProgress
from domain.rung import Rung
from models import memory
from models.giving_way import give_way
from models.inference_thread import InferenceThread
from models.parking import Berth, Parking
from models.speech import self_test
from models.speech.abilities import Abilities
from models.speech.checkpoint import Checkpoint
from models.speech.decoder import AudioDecoder
from models.speech.engine import WhisperEngine
from models.speech.ladder import Climbed, NoRungLeft, first_that_works, ladder
from models.speech.options import EngineOptions
from models.speech.whisper import WhisperEars

_CUBLAS = ("libcublasLt.so.12", "libcublas.so.12")


class DeviceFailed(ModelLoadFailed):
    """The device cannot run the model, whose files are not at fault: another device may."""

    def __init__(self, message: str, rungs: Sequence[Rung] = ()) -> None:
        super().__init__(message)
        self.rungs = tuple(rungs)


@dataclass(frozen=True, slots=True)
class Fallen:
    """Why a model is not on the GPU that it could have been on, and what was tried there."""

    reason: str
    rungs: tuple[Rung, ...] = ()

    @property
    def caveat(self) -> Caveat:
        """What every answer says of it."""
        return Caveat("cpu_fallback", f"the GPU is not used, and the CPU is slower: {self.reason}")


def load_whisper(
    spec: ModelSpec,
    directory: Path,
    *,
    decoder: AudioDecoder,
    device: str,
    compute_type: str,
    cpu_threads: int,
    lanes: int = 1,
    on_progress: OnLoadProgress,
    options: EngineOptions | None = None,
    too_large: Collection[str] = (),
    fallen: Fallen | None = None,
    parking: Parking[Checkpoint] | None = None,
    digest: str = "",
) -> WhisperEngine:
    """Load the checkpoint in `directory` on `device` (`cpu` or `cuda:N`). Blocks; no event loop is needed.

    The rows of a batch are shared among `lanes`, which share `cpu_threads` and have a copy of the weights each.
    `compute_type` is `auto` or a type of CTranslate2; one that the device lacks is replaced by the next best,
    and every answer says so. Those that are `too_large` for the device are not tried; `fallen` tells why the model
    comes here from another device. Weights of that `digest` that are in the `parking` are taken from there, and go
    back there when they have to make way on a GPU. `decoder` stays the caller's and may be shared. Raises
    ModelLoadFailed naming the file that is missing or damaged, DeviceFailed, and InsufficientMemory.
    """
    started = time.monotonic()
    size = check_directory(spec.id, directory)
    on_progress(LoadProgress("weights", 0, size))
    thread = InferenceThread(f"speech {spec.id}")
    try:
        held_before = _bytes_held(device)
        climbed = thread.call_soon(
            lambda: _load(
                spec.id, directory, device, compute_type, cpu_threads, too_large, parking or Parking(), digest, lanes
            )
        ).result()
    except BaseException:
        thread.close()
        raise
    on_progress(LoadProgress("weights", size, size))
    model = climbed.loaded
    used = str(model.model.compute_type)
    dtype, quantization = _precision(used)
    berth = Berth(digest, device, climbed.rungs[-1].compute_type)
    info = Model(spec).loaded(
        device=device,
        dtype=dtype,
        quantization=quantization,
        context_length=spec.context_length,
        memory_bytes=max(0, _bytes_held(device) - held_before),
        load_time_ms=round((time.monotonic() - started) * 1000),
        compute_type=used,
        rungs=(*(fallen.rungs if fallen else ()), *climbed.rungs),
        caveats=(*([fallen.caveat] if fallen else ()), *_caveats(compute_type, used)),
    )
    return WhisperEngine(
        info,
        WhisperEars(model, None if device == "cpu" or parking is None else partial(parking.put, berth)),
        Abilities.of(spec, model.languages()),
        decoder,
        thread,
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


def _load(
    name: str,
    directory: Path,
    device: str,
    compute_type: str,
    cpu_threads: int,
    too_large: Collection[str],
    parking: Parking[Checkpoint],
    digest: str,
    lanes: int,
) -> Climbed[Checkpoint]:
    """Runs on the owner thread, whose niceness CTranslate2's own threads inherit."""
    kind, _, index = device.partition(":")
    if kind == "cpu":
        # So that the event loop and text generation win the cores.
        give_way()
    if kind == "cuda":
        preload_cublas(name)

    def load(rung: str) -> Checkpoint:
        if (parked := parking.take(Berth(digest, device, rung))) is not None:
            return parked
        return Checkpoint.load(
            directory,
            device=kind,
            device_index=int(index or 0),
            compute_type=rung,
            cpu_threads=cpu_threads,
            lanes=lanes,
        )

    def check(loaded: Checkpoint) -> str | None:
        return self_test.what_is_wrong(WhisperEars(loaded)) if kind == "cuda" else None

    supported = set(_supported(name, kind, int(index or 0))).difference(too_large)
    try:
        rungs = ladder(kind, compute_type, supported)
        return first_that_works(device, rungs, load, check, lambda loaded: WhisperEars(loaded).close())
    except NoRungLeft as error:
        if error.out_of_memory:
            raise InsufficientMemory(f"'{name}' does not fit on {device}: {error}") from None
        raise DeviceFailed(f"'{name}' cannot be used on {device}: {error}", error.rungs) from None
    except RuntimeError as error:
        raise _refusal(name, device, str(error).replace(f"{directory}{os.sep}", "")) from None
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise _damaged(name, "tokenizer.json", str(error)) from None


def _supported(name: str, kind: str, index: int) -> Collection[str]:
    try:
        types: Collection[str] = ctranslate2.get_supported_compute_types(kind, index)
    except (RuntimeError, ValueError) as error:
        raise DeviceFailed(f"'{name}' cannot be loaded: CTranslate2 cannot use {kind}:{index} ({error})") from None
    return types


def _refusal(name: str, device: str, reason: str) -> ModelLoadFailed:
    """CTranslate2 says with one and the same exception that the device or that the weights are at fault."""
    if device != "cpu" and ("CUDA" in reason or "cublas" in reason.lower()):
        return DeviceFailed(f"'{name}' cannot be loaded: CTranslate2 cannot use {device} ({reason})")
    return _damaged(name, "model.bin", reason)


def preload_cublas(name: str) -> None:
    """CTranslate2 looks for the CUDA 12 library by name; one that came as a wheel is found only if it is loaded.

    Raises DeviceFailed, with what to do, where there is neither a wheel nor a library of the system.
    """
    try:
        for library in _CUBLAS:
            ctypes.CDLL(_from_wheel(library) or library, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        raise DeviceFailed(
            f"'{name}' cannot be loaded on a GPU: {_CUBLAS[-1]} is not here. Install it with: pip install ingle[cuda]"
        ) from None


def _from_wheel(library: str) -> str | None:
    """Where the wheel nvidia-cublas-cu12 has `library`, if it is installed."""
    try:
        package = importlib.util.find_spec("nvidia.cublas")
    except ModuleNotFoundError:
        return None
    locations = (package.submodule_search_locations or ()) if package else ()
    paths = (Path(location) / "lib" / library for location in locations)
    return next((str(path) for path in paths if path.is_file()), None)


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
    return usage.available if device == "cpu" else sum(gpu.free for gpu in usage.gpus if _is(gpu, device))


def _bytes_held(device: str) -> int:
    usage = memory.usage()
    return usage.rss if device == "cpu" else sum(gpu.used for gpu in usage.gpus if _is(gpu, device))


def _is(gpu: GpuMemory, device: str) -> bool:
    return device == f"cuda:{gpu.index}"

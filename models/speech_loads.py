"""Loads of speech models: where each goes, what happens when a GPU fails it, and where its weights wait meanwhile."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from domain.errors import InsufficientMemory
from domain.eviction import may_park
from domain.memory import MemoryNeed
from domain.model import LoadOptions, ModelSpec
from domain.repositories import OnLoadProgress
from models.budget import Budgets
from models.installed import InstalledModel
from models.parking import Parking
from models.speech.checkpoint import Checkpoint
from models.speech.decoder import AudioDecoder
from models.speech.engine import WhisperEngine
from models.speech.loader import DeviceFailed, Fallen, load_whisper
from models.speech.options import EngineOptions
from models.speech_placement import SpeechPlacement, place_speech


@dataclass(frozen=True, slots=True)
class SpeechPolicy:
    """What a deployment decides about speech models; `cpu_threads` is the most that one may have."""

    cpu_threads: int
    compute_type: str
    options: EngineOptions


class SpeechLoads:
    """Remembers which models a GPU has failed, and keeps the weights of those that had to make way there."""

    def __init__(
        self, decoder: AudioDecoder, policy: SpeechPolicy, budgets: Budgets, resolve: Callable[[str], str]
    ) -> None:
        """`decoder` stays the caller's; `resolve` makes a device that was asked for concrete."""
        self._decoder = decoder
        self._policy = policy
        self._budgets = budgets
        self._resolve = resolve
        self._fallen: dict[str, Fallen] = {}
        self._parking = Parking[Checkpoint]()

    def place(self, spec: ModelSpec, options: LoadOptions) -> SpeechPlacement:
        """Where a load would go, and what it would need there. Raises DeviceNotAvailable."""
        return place_speech(
            spec,
            self._resolve(options.device),
            self._compute_type(options),
            lambda where: self._budgets.of(where).ceiling,
            threads=self._threads(options),
            may_fall=options.device == "auto",
            fallen=self._fallen.get(spec.id),
        )

    def load(
        self, installed: InstalledModel, need: MemoryNeed, options: LoadOptions, on_progress: OnLoadProgress
    ) -> WhisperEngine:
        """Load into what was booked as `need`; a GPU that fails leaves the model to the CPU unless it was asked for.

        Blocks. Raises as `load_whisper` does.
        """
        spec = installed.spec
        placement = self.place(spec, options)
        if placement.need.device != need.device:
            # What could be had has changed since the memory was booked.
            raise InsufficientMemory(f"'{spec.id}' does not fit on {need.device} any more: try again")
        try:
            engine = self._load(installed, placement, options, on_progress)
        except DeviceFailed as error:
            if options.device != "auto" or need.device == "cpu":
                raise
            # Remembered, so that the next forecast and the next load do not count on the GPU.
            self._fallen[spec.id] = Fallen(str(error), error.rungs)
        else:
            if need.device != "cpu":
                self._fallen.pop(spec.id, None)
            return engine
        placement = self.place(spec, options)
        with self._budgets.booked(placement.need, spec.id):
            return self._load(installed, placement, options, on_progress)

    def _load(
        self, installed: InstalledModel, placement: SpeechPlacement, options: LoadOptions, on_progress: OnLoadProgress
    ) -> WhisperEngine:
        return load_whisper(
            installed.spec,
            installed.directory,
            decoder=self._decoder,
            device=placement.need.device,
            compute_type=self._compute_type(options),
            cpu_threads=self._threads(options),
            lanes=placement.lanes,
            on_progress=on_progress,
            options=self._policy.options,
            too_large=placement.too_large,
            fallen=placement.fallen,
            parking=self._parking,
            digest=installed.digest,
        )

    def unload(self, engine: WhisperEngine, *, park: bool) -> None:
        """Take a model out of memory. Blocks. With `park` one on a GPU waits in host memory, if there is room."""
        engine.close(to_host=park and self._may_wait(engine))

    def suspend(self, engine: WhisperEngine, *, park: bool) -> None:
        """Take the weights of a model in use out of memory, as `unload` does. Blocks."""
        engine.suspend(to_host=park and self._may_wait(engine))

    def _may_wait(self, engine: WhisperEngine) -> bool:
        info = engine.info
        return info.device != "cpu" and may_park(info.memory_bytes, self._budgets.of("cpu"))

    def let_go(self) -> bool:
        """Drop the weights that wait in host memory; whether there were any."""
        return self._parking.clear()

    def _threads(self, options: LoadOptions) -> int:
        return min(options.threads or self._policy.cpu_threads, self._policy.cpu_threads)

    def _compute_type(self, options: LoadOptions) -> str:
        return _COMPUTE_TYPES.get((options.dtype, options.quantization), self._policy.compute_type)


_COMPUTE_TYPES: Mapping[tuple[str, str], str] = {
    ("auto", "int8"): "int8",
    ("float32", "int8"): "int8_float32",
    ("float16", "int8"): "int8_float16",
    ("bfloat16", "int8"): "int8_bfloat16",
    ("float32", "auto"): "float32",
    ("float16", "auto"): "float16",
    ("bfloat16", "auto"): "bfloat16",
    ("auto", "none"): "float32",
    ("float32", "none"): "float32",
    ("float16", "none"): "float16",
    ("bfloat16", "none"): "bfloat16",
}

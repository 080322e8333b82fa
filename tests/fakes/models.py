"""Models without weights: a repository that loads what the test has scripted.

repository = FakeModelRepository(text_spec("tiny:1b"), speech_spec("ear:base"), memory_budget=3 * GIB)
repository.script("tiny:1b").text.chunks = ["Hel", "lo"]
repository.script("ear:base").load.shut()          # the next load waits for .open()
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from domain.errors import DeviceNotAvailable, IngleError, InsufficientMemory, ModelNotFound
from domain.memory import GpuMemory, MemoryBudget, MemoryNeed, MemoryUsage
from domain.model import LoadOptions, Model, ModelSpec, Task, WeightFormat, nearest_names, resolve_name
from domain.repositories import LoadedModel, LoadProgress, OnLoadProgress
from tests.fakes.embedding_model import EmbeddingScript, FakeEmbeddingModel
from tests.fakes.gate import Gate
from tests.fakes.loaded import FakeLoadedModel
from tests.fakes.speech_model import FakeSpeechModel, Heard, SpeechScript, segment
from tests.fakes.text_model import FakeTextModel, TextScript

__all__ = [
    "GIB",
    "EmbeddingScript",
    "FakeEmbeddingModel",
    "FakeLoadedModel",
    "FakeModelRepository",
    "FakeSpeechModel",
    "FakeTextModel",
    "Gate",
    "Heard",
    "ModelScript",
    "SpeechScript",
    "TextScript",
    "embedding_spec",
    "segment",
    "speech_spec",
    "text_spec",
]

GIB = 1 << 30
IDLE_RSS = 200 << 20
LOAD_TIME_MS = 1200


def text_spec(model_id: str = "tiny:1b", *, size_bytes: int = GIB, hub_id: str | None = None) -> ModelSpec:
    """A text model that is installed."""
    return ModelSpec(
        model_id,
        f"{model_id} for tests",
        Task.TEXT,
        WeightFormat.SAFETENSORS,
        family="tiny",
        context_length=4096,
        size_bytes=size_bytes,
        parameters=1_000_000,
        licence="Apache-2.0",
        hub_id=hub_id,
        capabilities=("completion",),
    )


def speech_spec(model_id: str = "ear:base", *, size_bytes: int = GIB) -> ModelSpec:
    """A speech model that is installed."""
    return ModelSpec(
        model_id,
        f"{model_id} for tests",
        Task.SPEECH,
        WeightFormat.CTRANSLATE2,
        family="ear",
        size_bytes=size_bytes,
        parameters=70_000_000,
        licence="MIT",
        capabilities=("transcription",),
    )


def embedding_spec(model_id: str = "vector:small", *, size_bytes: int = GIB) -> ModelSpec:
    """An embedding model that is installed."""
    return ModelSpec(
        model_id,
        f"{model_id} for tests",
        Task.EMBEDDING,
        WeightFormat.SAFETENSORS,
        family="vector",
        context_length=256,
        size_bytes=size_bytes,
        parameters=22_000_000,
        licence="Apache-2.0",
        capabilities=("embedding",),
    )


@dataclass
class ModelScript:
    """How one model behaves. Each entry of the failure queues ends one load, one unload or one suspension.

    A return after a suspension is a load.
    The last step of `load_progress` is told after the gate, the others before it.
    """

    load: Gate = field(default_factory=Gate)
    load_failures: deque[BaseException] = field(default_factory=deque)
    load_progress: Sequence[LoadProgress] = (LoadProgress("read", 1, 2), LoadProgress("weights", 2, 2))
    unload: Gate = field(default_factory=Gate)
    unload_failures: deque[BaseException] = field(default_factory=deque)
    suspend: Gate = field(default_factory=Gate)
    suspend_failures: deque[Exception] = field(default_factory=deque)
    text: TextScript = field(default_factory=TextScript)
    speech: SpeechScript = field(default_factory=SpeechScript)
    embedding: EmbeddingScript = field(default_factory=EmbeddingScript)


class FakeSuspended:
    """A SuspendedModel of a FakeModelRepository."""

    def __init__(self, repository: "FakeModelRepository", model: FakeLoadedModel, bytes_freed: int) -> None:
        self._repository = repository
        self._model = model
        self._bytes_freed = bytes_freed

    @property
    def bytes_freed(self) -> int:
        """The size of its files."""
        return self._bytes_freed

    async def resume(self, options: LoadOptions, on_progress: OnLoadProgress) -> None:
        """Take memory as a load does, then let the generators go on."""
        await self._repository.take(self._model.info.spec, options, on_progress)
        self._model.weights.open()

    def fail(self, error: IngleError) -> None:
        """End all work with `error`."""
        self._model.abort(error)


class FakeModelRepository:
    """A ModelRepository whose memory is a number.

    A load takes `size_bytes` of `memory_budget` from its beginning and raises InsufficientMemory when that is more than
    there is room for, which also counts in `loads_over_budget`. `machine_bytes` is what the machine has, if that is
    more; `garbage_bytes` are held by nobody and come back with `trim` and `reclaim`. The memory is one, whatever the
    device, and is called `where`. A model that is loaded while it is already in memory, or unloaded while it is not,
    is a broken promise of the pool: AssertionError at once, and an entry in `violations` in case that error is caught
    on its way to the test.
    """

    def __init__(
        self,
        *specs: ModelSpec,
        aliases: Mapping[str, str] | None = None,
        memory_budget: int = 64 * GIB,
        gpus: int = 0,
    ) -> None:
        self.specs = list(specs)
        self.aliases = dict(aliases or {})
        self.memory_budget = memory_budget
        self.machine_bytes: int | None = None
        self.garbage_bytes = 0
        self.where = "memory"
        self.devices = ("cpu", *(f"cuda:{index}" for index in range(gpus)))
        self.violations: list[str] = []
        self.loads: list[tuple[str, LoadOptions]] = []
        self.unloads: list[str] = []
        self.suspensions: list[str] = []
        self.parked: list[str] = []
        self.trims = 0
        self.reclaims = 0
        self.looks = 0
        self._others = 0
        self.loads_over_budget = 0
        self.models: list[FakeLoadedModel] = []
        self._scripts: dict[str, ModelScript] = {}
        self._held: dict[str, int] = {}

    # -- for the test -------------------------------------------------------------------------------

    def script(self, model_id: str) -> ModelScript:
        """How the model with that full name behaves, to be changed by the test."""
        return self._scripts.setdefault(model_id, ModelScript())

    def others_hold(self, size: int) -> None:
        """From now on so many bytes of the memory are other programs'."""
        self._others = size

    @property
    def in_memory(self) -> set[str]:
        """Names of the models that hold memory: loading, loaded or unloading."""
        return set(self._held)

    def count_loads(self, model_id: str) -> int:
        """How often a load of that model began."""
        return sum(loaded == model_id for loaded, _ in self.loads)

    def text(self, model_id: str) -> FakeTextModel:
        """The text model of that name that was loaded last."""
        return next(
            model for model in reversed(self.models) if isinstance(model, FakeTextModel) and model.info.id == model_id
        )

    def speech(self, model_id: str) -> FakeSpeechModel:
        """The speech model of that name that was loaded last."""
        return next(
            model for model in reversed(self.models) if isinstance(model, FakeSpeechModel) and model.info.id == model_id
        )

    def embedding(self, model_id: str) -> FakeEmbeddingModel:
        """The embedding model of that name that was loaded last."""
        return next(
            model
            for model in reversed(self.models)
            if isinstance(model, FakeEmbeddingModel) and model.info.id == model_id
        )

    # -- the port -----------------------------------------------------------------------------------

    def installed(self) -> Sequence[ModelSpec]:
        """Every model on disk."""
        return list(self.specs)

    def find(self, name: str) -> ModelSpec:
        """The installed model that `name` means."""
        spec = resolve_name(name, self.specs, self.aliases)
        if spec is None:
            raise ModelNotFound(name, nearest_names(name, [spec.id for spec in self.specs]))
        return spec

    async def load(self, spec: ModelSpec, options: LoadOptions, on_progress: OnLoadProgress) -> LoadedModel:
        """Take memory, report progress, wait at the gate, fail or give a model."""
        device = self._device(options.device)
        await self.take(spec, options, on_progress)
        model = self._build(spec, options, device, self.script(spec.id))
        self.models.append(model)
        return model

    async def take(self, spec: ModelSpec, options: LoadOptions, on_progress: OnLoadProgress) -> None:
        """Take memory, report progress, wait at the gate, or fail."""
        script = self.script(spec.id)
        self.loads.append((spec.id, options))
        if spec.id in self._held:
            self._violate(f"'{spec.id}' is loaded while it is in memory")
        free = self.budget(self.where).room
        if spec.size_bytes > free:
            self.loads_over_budget += 1
            raise InsufficientMemory(
                f"model '{spec.id}' needs {spec.size_bytes} bytes and {free} are free",
                needed_bytes=spec.size_bytes,
                available_bytes=free,
            )
        self._held[spec.id] = spec.size_bytes
        try:
            for progress in script.load_progress[:-1]:
                on_progress(progress)
            await script.load.pass_through()
            for progress in script.load_progress[-1:]:
                on_progress(progress)
            if script.load_failures:
                raise script.load_failures.popleft()
        except BaseException:
            del self._held[spec.id]
            raise

    async def unload(self, model: LoadedModel, *, park: bool = False) -> int:
        """Give the model's memory back."""
        assert isinstance(model, FakeLoadedModel)
        model_id = model.info.id
        if park:
            self.parked.append(model_id)
        script = self.script(model_id)
        self.unloads.append(model_id)
        model.unload()
        if model.is_suspended:
            return 0
        if model_id not in self._held:
            self._violate(f"'{model_id}' is unloaded while it is not in memory")
        try:
            await script.unload.pass_through()
            if script.unload_failures:
                raise script.unload_failures.popleft()
        finally:
            freed = self._held.pop(model_id)
        return freed

    async def suspend(self, model: LoadedModel, *, park: bool = False) -> FakeSuspended:
        """Hold the model's generators and give its memory back."""
        assert isinstance(model, FakeLoadedModel)
        model_id = model.info.id
        if not isinstance(model, FakeTextModel | FakeSpeechModel) or model.is_suspended:
            self._violate(f"'{model_id}' cannot be suspended")
        script = self.script(model_id)
        await script.suspend.pass_through()
        if script.suspend_failures:
            raise script.suspend_failures.popleft()
        model.weights.shut()
        self.suspensions.append(model_id)
        if park:
            self.parked.append(model_id)
        return FakeSuspended(self, model, self._held.pop(model_id))

    def need(self, spec: ModelSpec, options: LoadOptions) -> MemoryNeed:
        """The size of its files, once the device is found to exist."""
        self._device(options.device)
        return MemoryNeed(self.where, spec.size_bytes)

    def budget(self, device: str) -> MemoryBudget:
        """The whole memory; garbage counts as held."""
        held = sum(self._held.values()) + self.garbage_bytes
        return MemoryBudget(device, self.memory_budget, held, self.memory_budget - held - self._others)

    async def reclaim(self, device: str) -> None:
        """Give back what nobody holds."""
        self.reclaims += 1
        self.garbage_bytes = 0

    async def trim(self) -> Sequence[str]:
        """Give back what nobody holds."""
        self.trims += 1
        freed, self.garbage_bytes = self.garbage_bytes, 0
        return [f"gc: {freed} bytes"] if freed else []

    def memory(self) -> MemoryUsage:
        """The machine: what loads hold, and the garbage, count as used."""
        self.looks += 1
        used = sum(self._held.values()) + self.garbage_bytes
        total = self.machine_bytes or self.memory_budget
        gpus = tuple(GpuMemory(index, "Imaginary GPU", 24 * GIB, 0) for index in range(len(self.devices) - 1))
        return MemoryUsage(
            rss=IDLE_RSS + used,
            vms=4 * (IDLE_RSS + used),
            total=total,
            available=max(0, total - used - self._others),
            gpus=gpus,
        )

    def _device(self, wanted: str) -> str:
        if wanted == "auto":
            return "cuda:0" if "cuda:0" in self.devices else "cpu"
        device = "cuda:0" if wanted == "cuda" else wanted
        if device not in self.devices:
            raise DeviceNotAvailable(wanted, self.devices)
        return device

    def _build(self, spec: ModelSpec, options: LoadOptions, device: str, script: ModelScript) -> FakeLoadedModel:
        info = Model(spec).loaded(
            device=device,
            dtype="float32" if options.dtype == "auto" else options.dtype,
            quantization="none" if options.quantization == "auto" else options.quantization,
            context_length=min(options.num_ctx or spec.context_length, spec.context_length),
            memory_bytes=spec.size_bytes,
            load_time_ms=LOAD_TIME_MS,
            rungs=script.speech.rungs,
            caveats=script.speech.caveats,
        )
        if spec.task is Task.TEXT:
            return FakeTextModel(info, script.text, self.violations)
        if spec.task is Task.SPEECH:
            return FakeSpeechModel(info, script.speech, self.violations)
        return FakeEmbeddingModel(info, script.embedding, self.violations)

    def _violate(self, what: str) -> None:
        self.violations.append(what)
        raise AssertionError(what)

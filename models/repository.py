"""Loads models onto devices and takes them off again, so that the memory really comes back."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from domain.errors import InsufficientMemory, ModelNotFound, ModelNotLoaded
from domain.memory import MemoryUsage
from domain.model import LoadOptions, ModelSpec, Task, WeightFormat
from domain.repositories import LoadedModel, LoadProgress, OnLoadProgress
from models import device, memory, tokenizer_files
from models.embedding.engine import Bounds, EmbeddingEngine
from models.embedding.loader import load_embedding
from models.embedding.placement import place_embedding
from models.inference_thread import InferenceThread
from models.speech.decoder import AudioDecoder
from models.speech.engine import WhisperEngine
from models.speech.loader import load_whisper
from models.store import InstalledModel, ModelStore
from models.text import weights
from models.text.engine import TextEngine
from models.text.loader import EngineOptions, load_text
from models.text.placement import place_text

log = logging.getLogger(__name__)

# Bytes that a parameter takes in memory, cache and workspace not counted, with a tenth to spare.
_BYTES_A_PARAMETER = {"int8": 1.6, "bfloat16": 2.2, "float16": 2.2, "float32": 4.4}
_CACHE_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class LoadPolicy:
    """What a deployment decides about loads. Bytes and counts; `context_length` 0 is the model's own."""

    cpu_threads: int
    min_free_bytes: int = 2 << 30
    gpu_memory_fraction: float = 0.8
    context_length: int = 0
    speech_compute_type: str = "auto"
    engine: EngineOptions = field(default_factory=EngineOptions)


class OptimizedModelRepository:
    """Implements `domain.repositories.ModelRepository` for text, speech and embedding models over the local store."""

    def __init__(self, store: ModelStore, decoder: AudioDecoder, policy: LoadPolicy) -> None:
        self._store = store
        self._decoder = decoder
        self._policy = policy
        self._threads: dict[str, InferenceThread] = {}

    def installed(self) -> Sequence[ModelSpec]:
        """Every model on disk."""
        return [model.spec for model in self._store.installed()]

    def find(self, name: str) -> ModelSpec:
        """The installed model that `name` means. Raises ModelNotFound with the nearest names."""
        return self._store.find(name).spec

    def memory(self) -> MemoryUsage:
        """The process and the machine, now."""
        return memory.usage()

    async def trim(self) -> Sequence[str]:
        """Collect garbage and give freed pages back."""
        return await asyncio.to_thread(memory.trim)

    async def load(self, spec: ModelSpec, options: LoadOptions, on_progress: OnLoadProgress) -> LoadedModel:
        """Bring `spec` into memory on the device that `options` name; see the contract."""
        installed = self._store.find(spec.id)
        on_progress(LoadProgress("read", 0, spec.size_bytes))
        return await asyncio.to_thread(self._load, installed, options, on_progress)

    def _load(self, installed: InstalledModel, options: LoadOptions, on_progress: OnLoadProgress) -> LoadedModel:
        self._store.verify(installed)
        try:
            if installed.spec.task is Task.TEXT:
                return self._load_text(installed, options, on_progress)
            if installed.spec.task is Task.SPEECH:
                return self._load_speech(installed, options, on_progress)
            return self._load_embedding(installed, options, on_progress)
        except (MemoryError, torch.OutOfMemoryError) as error:
            reason = str(error)
        # Outside the except block, whose traceback would keep the half-loaded tensors alive.
        memory.trim()
        raise InsufficientMemory(f"'{installed.spec.id}' ran out of memory while loading: {reason}")

    def _load_text(self, installed: InstalledModel, options: LoadOptions, on_progress: OnLoadProgress) -> TextEngine:
        spec = installed.spec
        placement = place_text(options)
        needed = _weight_bytes(spec, "int8" if placement.precision.int8 else placement.dtype)
        free = self._free_bytes(str(placement.device))
        if needed > free:
            raise _too_big(spec, needed, free)
        source = installed.directory
        if spec.format is WeightFormat.GGUF:
            source = next(file.path for file in installed.files if file.name.endswith(".gguf"))
        return load_text(
            spec,
            source,
            lambda layout: self._store.converted_dir(installed, layout),
            device=placement.device,
            precision=placement.precision,
            quantization=placement.quantization,
            num_ctx=options.num_ctx or self._policy.context_length,
            cache_bytes=int((free - needed) * _CACHE_SHARE),
            options=self._policy.engine,
            thread=self._thread_of(str(placement.device)),
            on_progress=on_progress,
        )

    def _load_speech(
        self, installed: InstalledModel, options: LoadOptions, on_progress: OnLoadProgress
    ) -> WhisperEngine:
        where = device.resolve(options.device)
        needed, free = _weight_bytes(installed.spec, "float16"), self._free_bytes(where)
        if needed > free:
            raise _too_big(installed.spec, needed, free)
        return load_whisper(
            installed.spec,
            installed.directory,
            decoder=self._decoder,
            device=where,
            compute_type=_COMPUTE_TYPES.get((options.dtype, options.quantization), self._policy.speech_compute_type),
            cpu_threads=self._policy.cpu_threads,
            on_progress=on_progress,
            max_waiting=self._policy.engine.max_waiting,
        )

    def _load_embedding(
        self, installed: InstalledModel, options: LoadOptions, on_progress: OnLoadProgress
    ) -> EmbeddingEngine:
        spec = installed.spec
        placement = place_embedding(options)
        where = str(placement.device)
        needed, free = _weight_bytes(spec, placement.dtype_name), self._free_bytes(where)
        if needed > free:
            raise _too_big(spec, needed, free)
        engine = self._policy.engine
        return load_embedding(
            spec,
            installed.directory,
            placement=placement,
            num_ctx=options.num_ctx,
            bounds=Bounds(placement.step_tokens, engine.max_waiting, engine.max_waiting_tokens),
            thread=self._thread_of(where),
            on_progress=on_progress,
        )

    async def unload(self, model: LoadedModel) -> int:
        """Drop the weights, return the pages, and measure what came back."""
        if not isinstance(model, TextEngine | EmbeddingEngine | WhisperEngine):
            raise ModelNotLoaded(f"'{model.info.id}' was not loaded here")
        before = await asyncio.to_thread(memory.usage)
        if isinstance(model, TextEngine | EmbeddingEngine):
            await model.close()
        else:
            await asyncio.to_thread(model.close)
        await asyncio.to_thread(memory.trim)
        after = await asyncio.to_thread(memory.usage)
        return max(0, before.rss - after.rss) + max(0, before.vram_used - after.vram_used)

    def prepare(self, names: Sequence[str]) -> None:
        """Before anybody listens: do what would hold the interpreter during the loads of `names`.

        Names that are not installed, or cannot be loaded, are left for the request that asks for them, which hears why.
        """
        for name in names:
            try:
                installed = self._store.find(name)
                if installed.spec.task is Task.TEXT:
                    placement = place_text(LoadOptions())
                    weights.prepare(partial(self._store.converted_dir, installed), placement.precision)
                elif installed.spec.task is Task.SPEECH:
                    tokenizer_files.parsed(installed.directory / "tokenizer.json")
            except ModelNotFound:
                continue
            except Exception as error:  # the tokenizers library raises bare exceptions for a damaged file
                log.warning("%s cannot be prepared, and will hardly load: %s", name, type(error).__name__)

    def engines_are_well(self) -> bool:
        """Whether every owner thread of a text engine is alive and gets on."""
        return all(thread.is_well() for thread in list(self._threads.values()))

    def close(self) -> None:
        """End the owner threads and the decode processes. Every model must be unloaded."""
        self._decoder.close()
        for thread in self._threads.values():
            thread.close()
        self._threads.clear()

    def _thread_of(self, where: str) -> InferenceThread:
        if where not in self._threads:
            thread = InferenceThread(f"text {where}")
            # OpenMP counts threads for each thread that starts work, so the owner must be told itself.
            thread.call_soon(lambda: torch.set_num_threads(self._policy.cpu_threads)).result()
            self._threads[where] = thread
        return self._threads[where]

    def _free_bytes(self, where: str) -> int:
        """What a load may take there and still leave what the deployment wants left."""
        now = memory.usage()
        if where == "cpu":
            return max(0, now.available - self._policy.min_free_bytes)
        gpu = now.gpus[int(where.partition(":")[2])]
        return max(0, int(gpu.total * self._policy.gpu_memory_fraction) - gpu.used)


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


def _weight_bytes(spec: ModelSpec, precision: str) -> int:
    """What the weights are expected to take; from the file's size where the number of parameters is not known."""
    if spec.parameters:
        return int(spec.parameters * _BYTES_A_PARAMETER[precision])
    return int(spec.size_bytes * (2.0 if spec.format is WeightFormat.GGUF else 1.2))


def _too_big(spec: ModelSpec, needed: int, free: int) -> InsufficientMemory:
    gib = 1 << 30
    return InsufficientMemory(
        f"'{spec.id}' needs about {needed / gib:.1f} GiB and {free / gib:.1f} GiB may be taken: "
        "unload another model, choose a smaller one, or lower MIN_MEMORY_GB",
        needed_bytes=needed,
        available_bytes=free,
    )

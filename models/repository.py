"""Loads models onto devices and takes them off again, so that the memory really comes back."""

import asyncio
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from application.shortages import OnShortage
from domain.errors import IngleError, InsufficientMemory, ModelNotFound, ModelNotLoaded
from domain.memory import MemoryBudget, MemoryNeed, MemoryUsage
from domain.model import LoadOptions, ModelSpec, Task
from domain.repositories import LoadedModel, LoadProgress, OnLoadProgress
from models import device, forecast, memory, tokenizer_files
from models.budget import BudgetPolicy, Budgets
from models.embedding.engine import Bounds, EmbeddingEngine
from models.embedding.loader import load_embedding
from models.embedding.placement import place_embedding
from models.inference_thread import InferenceThread
from models.speech.decoder import AudioDecoder
from models.speech.engine import WhisperEngine
from models.speech.options import EngineOptions as SpeechOptions
from models.speech_loads import SpeechLoads, SpeechPolicy
from models.store import InstalledModel, ModelStore
from models.text import kernel_choice, weights
from models.text.cache_memory import CacheUse, sum_of
from models.text.engine import TextEngine
from models.text.loader import EngineOptions
from models.text.placement import place_text
from models.text_loads import TextLoads

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadPolicy:
    """What a deployment decides about loads; `context_length` 0 is the model's own."""

    cpu_threads: int
    budget: BudgetPolicy = field(default_factory=BudgetPolicy)
    context_length: int = 0
    speech_compute_type: str = "auto"
    engine: EngineOptions = field(default_factory=EngineOptions)
    speech: SpeechOptions = field(default_factory=SpeechOptions)


class OptimizedModelRepository:
    """Implements `domain.repositories.ModelRepository` for text, speech and embedding models over the local store."""

    def __init__(
        self,
        store: ModelStore,
        decoder: AudioDecoder,
        policy: LoadPolicy,
        *,
        usage: Callable[[], MemoryUsage] = memory.usage,
        speech_device: Callable[[str], str] = device.resolve,
        on_shortage: OnShortage = lambda _: False,
    ) -> None:
        """`speech_device` makes a device that was asked for concrete; `usage` tells what the machine has.

        `on_shortage` hears of caches that cannot grow, from their own threads.
        """
        self._store = store
        self._decoder = decoder
        self._policy = policy
        self._budgets = Budgets(policy.budget, usage)
        speech = SpeechPolicy(policy.cpu_threads, policy.speech_compute_type, policy.speech)
        self._speech = SpeechLoads(decoder, speech, self._budgets, speech_device)
        self._text = TextLoads(store, policy.engine, policy.context_length, self._budgets, on_shortage)
        # transformers makes models without weights by patching torch for all threads: two at once get mixed up.
        self._transformers = threading.Lock()
        self._threads: dict[str, InferenceThread] = {}
        self._texts: weakref.WeakSet[TextEngine] = weakref.WeakSet()

    def installed(self) -> Sequence[ModelSpec]:
        """Every model on disk."""
        return [model.spec for model in self._store.installed()]

    def find(self, name: str) -> ModelSpec:
        """The installed model that `name` means. Raises ModelNotFound with the nearest names."""
        return self._store.find(name).spec

    def memory(self) -> MemoryUsage:
        """The process and the machine, now, with what the caches of all text models take together."""
        caches = self._caches()
        return replace(memory.usage(), kv_cache=caches.granted, prefix_cache=caches.prefix)

    def _caches(self) -> CacheUse:
        return sum_of(engine.cache_use() for engine in list(self._texts))

    def budget(self, device: str) -> MemoryBudget:
        """What may be taken of a device's memory, now."""
        return self._budgets.of(device)

    def need(self, spec: ModelSpec, options: LoadOptions) -> MemoryNeed:
        """What a load of `spec` would take. Raises InvalidRequest and DeviceNotAvailable as `load` would."""
        if spec.task is Task.SPEECH:
            return self._speech.place(spec, options).need
        if spec.task is Task.EMBEDDING:
            return forecast.embedding_need(spec, place_embedding(options))
        return self._text.need(spec, options)

    async def reclaim(self, device: str) -> None:
        """Give back the cached keys and values that no request uses, and what the allocators keep."""
        for engine in list(self._texts):
            if engine.info.device == device:
                await engine.give_back_cache()
        if device == "cpu":
            self._let_go()
        await asyncio.to_thread(memory.trim)

    async def trim(self) -> Sequence[str]:
        """Drop cached prefixes and parked weights, collect garbage and give freed pages back."""
        parked = self._let_go()
        cached = self._caches().prefix
        for engine in list(self._texts):
            await engine.give_back_cache()
        done = [*(["prefix cache"] if cached else []), *(["parked weights"] if parked else [])]
        return [*done, *await asyncio.to_thread(memory.trim)]

    def _let_go(self) -> bool:
        """Drop all weights that wait in host memory; whether there were any."""
        return any([self._speech.let_go(), self._text.let_go()])

    async def load(self, spec: ModelSpec, options: LoadOptions, on_progress: OnLoadProgress) -> LoadedModel:
        """Bring `spec` into memory on the device that `options` name; see the contract."""
        installed = self._store.find(spec.id)
        need = self.need(spec, options)
        with self._budgets.booked(need, spec.id):
            on_progress(LoadProgress("read", 0, spec.size_bytes))
            return await asyncio.to_thread(self._load, installed, need, options, on_progress)

    def _load(
        self, installed: InstalledModel, need: MemoryNeed, options: LoadOptions, on_progress: OnLoadProgress
    ) -> LoadedModel:
        self._store.verify(installed)
        try:
            if installed.spec.task is Task.SPEECH:
                return self._speech.load(installed, need, options, on_progress)
            if installed.spec.task is Task.TEXT:
                self._text.convert(installed, options, on_progress, self._transformers)
            with self._transformers:
                if installed.spec.task is Task.TEXT:
                    return self._load_text(installed, need, options, on_progress)
                return self._load_embedding(installed, options, on_progress)
        except Exception as error:
            if isinstance(error, InsufficientMemory) or not memory.ran_out(error):
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
        finally:
            # What the load needed on its way goes back.
            memory.trim()
        # Outside the except block, whose traceback would keep the half-loaded tensors alive.
        memory.trim()
        raise InsufficientMemory(f"'{installed.spec.id}' ran out of memory while loading: {reason}")

    def _load_text(
        self, installed: InstalledModel, need: MemoryNeed, options: LoadOptions, on_progress: OnLoadProgress
    ) -> TextEngine:
        threads, thread = self._threads_for(options), self._thread_of(need.device)
        engine = self._text.load(installed, need, options, threads, thread, on_progress)
        self._texts.add(engine)
        return engine

    def _threads_for(self, options: LoadOptions) -> int:
        """As many as the model is wanted to have, and never more than the machine leaves us."""
        return min(options.threads or self._policy.cpu_threads, self._policy.cpu_threads)

    def _load_embedding(
        self, installed: InstalledModel, options: LoadOptions, on_progress: OnLoadProgress
    ) -> EmbeddingEngine:
        placement = place_embedding(options)
        engine = self._policy.engine
        return load_embedding(
            installed.spec,
            installed.directory,
            placement=placement,
            num_ctx=options.num_ctx,
            bounds=Bounds(placement.step_tokens, engine.max_waiting, engine.max_waiting_tokens),
            thread=self._thread_of(str(placement.device)),
            on_progress=on_progress,
            threads=self._threads_for(options),
        )

    async def unload(self, model: LoadedModel, *, park: bool = False) -> int:
        """Drop the weights, return the pages, and measure what came back; see the contract."""
        if isinstance(model, TextEngine):
            return await _freed_by(self._text.unload(model, park=park))
        if isinstance(model, EmbeddingEngine):
            return await _freed_by(model.close())
        if isinstance(model, WhisperEngine):
            return await _freed_by(asyncio.to_thread(self._speech.unload, model, park=park))
        raise _stranger(model)

    async def suspend(self, model: LoadedModel, *, park: bool = False) -> "SuspendedEngine":
        """Drop the weights of a text or speech model that is in use; see the contract."""
        if isinstance(model, TextEngine):
            return SuspendedEngine(self, model, await _freed_by(self._text.suspend(model, park=park)))
        if isinstance(model, WhisperEngine):
            freed = await _freed_by(asyncio.to_thread(self._speech.suspend, model, park=park))
            return SuspendedEngine(self, model, freed)
        raise _stranger(model)

    def prepare(self, names: Sequence[str]) -> None:
        """Before anybody listens: do what would hold the interpreter during the loads of `names`.

        Names that are not installed, or cannot be loaded, are left for the request that asks for them, which hears why.
        """
        kernel_choice.measured()
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
        self._let_go()
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


class SuspendedEngine:
    """Implements `domain.repositories.SuspendedModel` for an engine of an OptimizedModelRepository."""

    def __init__(
        self, repository: OptimizedModelRepository, engine: TextEngine | WhisperEngine, bytes_freed: int
    ) -> None:
        self._repository = repository
        self._engine = engine
        self._bytes_freed = bytes_freed

    @property
    def bytes_freed(self) -> int:
        """How much memory that gave back."""
        return self._bytes_freed

    async def resume(self, options: LoadOptions, on_progress: OnLoadProgress) -> None:
        """Load the model anew, and let the engine go on with what was loaded; see the contract."""
        engine = self._engine
        fresh = await self._repository.load(engine.info.spec, options, on_progress)
        if isinstance(engine, TextEngine):
            assert isinstance(fresh, TextEngine)
            await engine.resume(fresh)
        else:
            assert isinstance(fresh, WhisperEngine)
            await asyncio.to_thread(engine.resume, fresh)

    def fail(self, error: IngleError) -> None:
        """End all work with `error`."""
        self._engine.abort(error)


async def _freed_by(leaving: Awaitable[None]) -> int:
    """How many bytes the machine and its GPUs have back when `leaving` is over."""
    before = await asyncio.to_thread(memory.usage)
    await leaving
    await asyncio.to_thread(memory.trim)
    after = await asyncio.to_thread(memory.usage)
    return max(0, before.rss - after.rss) + max(0, before.vram_used - after.vram_used)


def _stranger(model: LoadedModel) -> ModelNotLoaded:
    return ModelNotLoaded(f"'{model.info.id}' was not loaded here")

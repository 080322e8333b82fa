"""Loads of text models: what each needs, what its cache may take, and where its weights wait when they give way."""

import asyncio
import logging
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from application.shortages import OnShortage
from domain.errors import InsufficientMemory
from domain.eviction import may_park
from domain.memory import MemoryNeed
from domain.model import LoadOptions, ModelSpec, WeightFormat
from domain.repositories import OnLoadProgress
from models import forecast, memory
from models.budget import Budgets, DeviceBudget
from models.inference_thread import InferenceThread
from models.installed import InstalledModel
from models.parking import Berth, Parking
from models.store import ModelStore
from models.text import weights
from models.text.engine import TextEngine
from models.text.loader import EngineOptions, load_text
from models.text.parked import Kept, ParkedWeights, WaitingPlace
from models.text.placement import Placement, place_text

log = logging.getLogger(__name__)


class TextLoads:
    """Loads text models, and keeps the weights of those that had to make way on a GPU."""

    def __init__(
        self, store: ModelStore, engine: EngineOptions, context_length: int, budgets: Budgets, on_shortage: OnShortage
    ) -> None:
        """`context_length` 0 is each model's own; `on_shortage` hears of caches that cannot grow."""
        self._store = store
        self._engine = engine
        self._context_length = context_length
        self._budgets = budgets
        self._on_shortage = on_shortage
        self._parking = Parking[ParkedWeights]()

    def need(self, spec: ModelSpec, options: LoadOptions) -> MemoryNeed:
        """What a load of `spec` would take. Raises InvalidRequest and DeviceNotAvailable."""
        placement = place_text(options)
        installed = self._store.find(spec.id)
        copy = self._store.converted_dir(installed, weights.layout_of(placement.precision))
        return forecast.text_need(spec, placement, self._context(options), [copy, installed.directory])

    def convert(
        self,
        installed: InstalledModel,
        options: LoadOptions,
        on_progress: OnLoadProgress,
        building: AbstractContextManager[object],
    ) -> None:
        """What a first load takes longest for; others load meanwhile, but for what `building` is held for."""
        weights.convert(
            _source_of(installed),
            installed.spec.format,
            partial(self._store.converted_dir, installed),
            place_text(options).precision,
            on_progress,
            building,
        )

    def load(
        self,
        installed: InstalledModel,
        need: MemoryNeed,
        options: LoadOptions,
        threads: int,
        thread: InferenceThread,
        on_progress: OnLoadProgress,
    ) -> TextEngine:
        """Load into what was booked as `need`, from host memory if the weights wait there. Blocks.

        Raises as `load_text` does.
        """
        placement = place_text(options)
        return load_text(
            installed.spec,
            _source_of(installed),
            partial(self._store.converted_dir, installed),
            device=placement.device,
            precision=placement.precision,
            quantization=placement.quantization,
            num_ctx=self._context(options),
            cache_bytes=max(need.cache, self._cache_bound(need)),
            options=self._engine.with_parallel(options.num_parallel),
            threads=threads,
            thread=thread,
            on_progress=on_progress,
            budget=DeviceBudget(self._budgets, need.device, self._on_shortage, thread.wake),
            place=self._place_for(installed, placement),
        )

    async def unload(self, engine: TextEngine, *, park: bool) -> None:
        """Take a model out of memory. With `park` one on a GPU waits in host memory, if there is room."""
        await self._keep(await engine.close(), engine, park=park)

    async def suspend(self, engine: TextEngine, *, park: bool) -> None:
        """Take weights and cache of a model in use out of memory. With `park` as `unload` does."""
        await self._keep(await engine.suspend(), engine, park=park)

    async def _keep(self, kept: Kept | None, engine: TextEngine, *, park: bool) -> None:
        if park and kept is not None and may_park(kept.bytes, self._budgets.of("cpu")):
            await asyncio.to_thread(self._park, kept, str(engine.info.id))

    def let_go(self) -> bool:
        """Drop the weights that wait in host memory; whether there were any."""
        return self._parking.clear()

    def _park(self, kept: Kept, name: str) -> None:
        try:
            # Booked, as others may be promised the same room while the bytes are on their way.
            with self._budgets.booked(MemoryNeed("cpu", kept.bytes, 0, 0), name):
                kept.park()
        except Exception as error:
            if not isinstance(error, InsufficientMemory) and not memory.ran_out(error):
                raise
            log.warning("%s is unloaded for good, as host memory has no room for its weights: %s", name, error)

    def _place_for(self, installed: InstalledModel, placement: Placement) -> WaitingPlace | None:
        """None for a CPU, whose memory is where weights would wait."""
        if placement.device.type == "cpu":
            return None
        berth = Berth(installed.digest, str(placement.device), f"{placement.dtype}, {placement.quantization}")
        return WaitingPlace(self._parking, berth)

    def _context(self, options: LoadOptions) -> int:
        return options.num_ctx or self._context_length

    def _cache_bound(self, need: MemoryNeed) -> int:
        """What a cache could take if no other model were there; it asks before it takes more than was promised."""
        budget = self._budgets.of(need.device)
        return budget.ceiling - need.weights - need.workspace if need.is_on_gpu else budget.limit


def _source_of(installed: InstalledModel) -> Path:
    """The weights of a text model: a GGUF file, or the directory that they lie in."""
    if installed.spec.format is WeightFormat.GGUF:
        return next(file.path for file in installed.files if file.name.endswith(".gguf"))
    return installed.directory

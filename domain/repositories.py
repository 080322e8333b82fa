"""The interfaces behind which models (and later jobs and sessions) are kept, with their contracts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from domain.errors import IngleError
from domain.memory import MemoryBudget, MemoryNeed, MemoryUsage
from domain.model import LoadOptions, Model, ModelSpec


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """A step of a load: `stage` is read, weights or warmup; `completed` of `total` are bytes or steps."""

    stage: str
    completed: int
    total: int


OnLoadProgress = Callable[[LoadProgress], None]


class LoadedModel(Protocol):
    """Weights in memory, ready to work; what it can do is told by the ports that extend this one."""

    @property
    def info(self) -> Model:
        """The entity, with `is_loaded` true and the figures of this load."""
        ...

    @property
    def waiting(self) -> int:
        """How many requests are admitted and not yet worked on."""
        ...

    def abort(self) -> None:
        """End all work, for good: every open generator raises RequestCancelled within one step.

        So does every generator that is opened afterwards: somebody may hold a lease and not have begun yet.
        """
        ...


class SuspendedModel(Protocol):
    """A model whose weights are off their device, and whose requests wait for them to come back."""

    @property
    def bytes_freed(self) -> int:
        """How much memory that gave back, measured."""
        ...

    async def resume(self, options: LoadOptions, on_progress: OnLoadProgress) -> None:
        """Load the weights again, as `ModelRepository.load` does, and go on: each request as if nothing had happened.

        Raises what a load raises; then the model is suspended as before.
        """
        ...

    def fail(self, error: IngleError) -> None:
        """End all work, for good, as `LoadedModel.abort` does, with `error` for those who have begun."""
        ...


class ModelRepository(Protocol):
    """Where models come from and go back to.

    * `installed` and `find` read the disk's index only: no weights, no network.
    * `find` raises ModelNotFound, with the nearest names, for a name that resolves to nothing.
    * `load` gives a model on exactly the device that was asked for, or raises DeviceNotAvailable,
      InsufficientMemory or ModelLoadFailed and leaves no memory behind and no other model touched.
    * `load` may be called for several models at once; `on_progress` may be called from any thread.
    * `need` tells, without touching weights, where a load would put a model and what it would take there; it refuses
      options that the model cannot have here as `load` would: InvalidRequest, DeviceNotAvailable.
    * From its call on, before anything is awaited, `load` has `need` booked in `budget`; it raises InsufficientMemory
      rather than take more than there is room for.
    * `reclaim` gives back caches that are not in use and garbage, and touches no model's weights.
    * `unload` gives the memory back to the machine and returns how many bytes that freed, measured. With `park`, one
      on a GPU may wait in the machine's own memory, where there is room, so that its next load is quick; nothing else
      knows of it, and `reclaim` of that memory and `trim` let it go.
    * `suspend` stops a text or speech model between two steps and takes its weights off the device, with `park` as
      `unload` does. Its requests stay open and take new ones, which wait: they may end by their deadlines, be
      cancelled and aborted. It may be unloaded. If it raises, the model works on.
    * `trim` returns memory that nobody needs (garbage, allocator, device caches) and names what it did.
    """

    def installed(self) -> Sequence[ModelSpec]:
        """Every model on disk, aliases not repeated."""
        ...

    def find(self, name: str) -> ModelSpec:
        """The installed model that `name` means."""
        ...

    async def load(self, spec: ModelSpec, options: LoadOptions, on_progress: OnLoadProgress) -> LoadedModel:
        """Bring `spec` into memory."""
        ...

    async def unload(self, model: LoadedModel, *, park: bool = False) -> int:
        """Take `model` out of memory; nobody may use it any more."""
        ...

    async def suspend(self, model: LoadedModel, *, park: bool = False) -> SuspendedModel:
        """Take the weights of `model` off their device while it is in use."""
        ...

    def need(self, spec: ModelSpec, options: LoadOptions) -> MemoryNeed:
        """What `load` would take, and of which device."""
        ...

    def budget(self, device: str) -> MemoryBudget:
        """What may be taken of a device's memory, now."""
        ...

    async def reclaim(self, device: str) -> None:
        """Give back what is cached on a device and not in use."""
        ...

    async def trim(self) -> Sequence[str]:
        """Give back what nobody needs."""
        ...

    def memory(self) -> MemoryUsage:
        """The process and the machine, now."""
        ...

"""Models that lie here and models that lie with other servers, as one repository."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from domain.memory import MemoryBudget, MemoryNeed, MemoryUsage
from domain.model import LoadOptions, ModelSpec, WeightFormat, resolve_name
from domain.repositories import LoadedModel, ModelRepository, OnLoadProgress, SuspendedModel

REMOTE_DEVICE = "remote"
"""Where a model is that takes nothing of this machine."""

_ENDLESS = 1 << 62


class ExternalModels(Protocol):
    """Models of other servers; the format of each is REMOTE.

    * `specs` costs nothing. `load` reaches no network and takes no memory to speak of.
    """

    def specs(self) -> Sequence[ModelSpec]:
        """Every model that is configured."""
        ...

    async def load(self, spec: ModelSpec) -> LoadedModel:
        """Ready to pass requests on."""
        ...


class JoinedRepository:
    """Implements `domain.repositories.ModelRepository`.

    * A name means an external model where it is configured under exactly that name, or where it would be found if all
      models lay here. It never means one because the local model of that name cannot be loaded.
    * External models take no memory, so nothing is unloaded for them.
    """

    def __init__(self, local: ModelRepository, external: ExternalModels, aliases: Mapping[str, str]) -> None:
        self._local = local
        self._external = external
        self._aliases = dict(aliases)

    def installed(self) -> Sequence[ModelSpec]:
        """The local models, those hidden by an external one of the same name left out, then the external ones."""
        external = self._external.specs()
        taken = {spec.id.lower() for spec in external}
        return [*(spec for spec in self._local.installed() if spec.id.lower() not in taken), *external]

    def find(self, name: str) -> ModelSpec:
        """The model that `name` means. Raises ModelNotFound as the local repository does."""
        found = resolve_name(name, self.installed(), self._aliases)
        if found is not None and found.format is WeightFormat.REMOTE:
            return found
        return self._local.find(name)

    async def load(self, spec: ModelSpec, options: LoadOptions, on_progress: OnLoadProgress) -> LoadedModel:
        """Bring `spec` into memory, or get ready to pass requests on."""
        if spec.format is WeightFormat.REMOTE:
            return await self._external.load(spec)
        return await self._local.load(spec, options, on_progress)

    async def unload(self, model: LoadedModel, *, park: bool = False) -> int:
        """Take `model` out of memory; an external one frees none."""
        if model.info.spec.format is WeightFormat.REMOTE:
            return 0
        return await self._local.unload(model, park=park)

    async def suspend(self, model: LoadedModel, *, park: bool = False) -> SuspendedModel:
        """Take the weights of `model` off their device while it is in use; an external one is in nobody's way."""
        return await self._local.suspend(model, park=park)

    def need(self, spec: ModelSpec, options: LoadOptions) -> MemoryNeed:
        """What `load` would take: of an external model nothing."""
        if spec.format is WeightFormat.REMOTE:
            return MemoryNeed(REMOTE_DEVICE, 0)
        return self._local.need(spec, options)

    def budget(self, device: str) -> MemoryBudget:
        """What may be taken of a device; other servers' memory is not ours to count."""
        if device == REMOTE_DEVICE:
            return MemoryBudget(device, _ENDLESS, 0, _ENDLESS)
        return self._local.budget(device)

    async def reclaim(self, device: str) -> None:
        """Give back what is cached on a device and not in use."""
        if device != REMOTE_DEVICE:
            await self._local.reclaim(device)

    async def trim(self) -> Sequence[str]:
        """Give back what nobody needs."""
        return await self._local.trim()

    def memory(self) -> MemoryUsage:
        """The process and the machine, now."""
        return self._local.memory()

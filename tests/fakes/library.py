"""A library of models without a disk.

library = FakeModelLibrary(repository, text_spec("new:1b"))
library.steps["new:1b"] = [PullProgress(PullStage.MANIFEST), …]      # what a pull says before it is done
library.gate.shut()                                                   # every pull waits before its last step
library.failures.append(InsufficientStorage())                        # ends the next pull or change
"""

from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace

from domain.errors import InvalidRequest, ModelExists, ModelNotFound
from domain.library import ModelDetails, NewModel, PullProgress, PullStage, inherited
from domain.model import ModelSpec, is_valid_name, nearest_names, resolve_name
from tests.fakes.gate import Gate
from tests.fakes.models import FakeModelRepository

_STEPS = (
    PullProgress(PullStage.MANIFEST),
    PullProgress(PullStage.FILES, "model.gguf", 4, 10, "1d" * 32),
    PullProgress(PullStage.FILES, "model.gguf", 10, 10, "1d" * 32),
    PullProgress(PullStage.VERIFYING, "model.gguf", 10, 10, "1d" * 32),
    PullProgress(PullStage.PUBLISHING),
)


class FakeModelLibrary:
    """A ModelLibrary whose disk is the list of specs of a FakeModelRepository.

    `pullable` are the models of its catalogue, `placed` the names of those that a person put into the folder.
    `open_pulls` counts generators that were begun and not closed.
    """

    def __init__(self, repository: FakeModelRepository, *pullable: ModelSpec) -> None:
        self.pullable = {spec.id.lower(): spec for spec in pullable}
        self.placed: set[str] = set()
        self.steps: dict[str, Sequence[PullProgress]] = {}
        self.gate = Gate()
        self.failures: deque[Exception] = deque()
        self.details_of: dict[str, ModelDetails] = {}
        self.details_failures: dict[str, Exception] = {}
        self.vocabulary: tuple[str, ...] = ("<s>", "hello", "world")
        self.open_pulls = 0
        self._repository = repository
        self._made: set[str] = set()
        self._original = {spec.id.lower() for spec in repository.specs}

    async def pull(self, name: str) -> AsyncGenerator[PullProgress, None]:
        """Tell the steps, wait at the gate, and be installed."""
        if not is_valid_name(name):
            raise InvalidRequest("invalid model name", field="model")
        present = resolve_name(name, self._repository.specs, self._aliases)
        if present is not None:
            yield PullProgress(PullStage.DONE)
            return
        spec = resolve_name(name, self.pullable.values(), {})
        if spec is None:
            raise ModelNotFound(name, nearest_names(name, self.pullable))
        self.open_pulls += 1
        try:
            for step in self.steps.get(spec.id, _STEPS):
                yield step
            await self.gate.pass_through()
            self._fail()
            self._repository.specs.append(spec)
            yield PullProgress(PullStage.DONE)
        finally:
            self.open_pulls -= 1

    async def delete(self, name: str) -> ModelSpec:
        """Take the spec off the list."""
        spec = self._own(name)
        await self.gate.pass_through()
        self._fail()
        self._repository.specs.remove(spec)
        return spec

    async def copy(self, source: str, destination: str) -> ModelSpec:
        """Put the spec on the list again, under another name."""
        return await self._put(replace(self._find(source), id=destination))

    async def create(self, wish: NewModel) -> ModelSpec:
        """Put the spec of the base on the list with another name and preset."""
        base = self._find(wish.base)
        preset = inherited(wish.preset, base)
        return await self._put(replace(base, id=wish.name, preset=preset, licence=wish.licence or base.licence))

    async def details(self, name: str, *, vocabulary: bool = False) -> ModelDetails:
        """What the test said, or what the spec says."""
        spec = self._repository.find(name)
        if spec.id in self.details_failures:
            raise self.details_failures[spec.id]
        said = self.details_of.get(spec.id) or ModelDetails(
            spec,
            architecture=spec.family,
            basename=spec.title,
            quantization="Q4_K_M",
            parameters=spec.parameters,
            context_length=spec.context_length,
            embedding_length=64,
            block_count=2,
            vocabulary_size=len(self.vocabulary),
            template="{{ messages }}",
            licence=spec.licence,
        )
        return replace(said, vocabulary=self.vocabulary) if vocabulary else said

    @property
    def _aliases(self) -> Mapping[str, str]:
        return {alias: target for alias, target in self._repository.aliases.items() if alias != "*"}

    def _find(self, name: str) -> ModelSpec:
        spec = resolve_name(name, self._repository.specs, self._aliases)
        if spec is None:
            raise ModelNotFound(name, nearest_names(name, [spec.id for spec in self._repository.specs]))
        return spec

    def _own(self, name: str) -> ModelSpec:
        spec = self._find(name)
        if spec.id in self.placed:
            raise InvalidRequest(f"model '{spec.id}' was placed in the models folder by hand", field="model")
        return spec

    async def _put(self, spec: ModelSpec) -> ModelSpec:
        if not is_valid_name(spec.id):
            raise InvalidRequest("invalid model name", field="model")
        name = spec.id.lower()
        taken = {*self._original, *self.pullable, *(alias.lower() for alias in self._aliases)}
        if name in taken - self._made:
            raise ModelExists(f"'{spec.id}' is the name of another model")
        await self.gate.pass_through()
        self._fail()
        self._made.add(name)
        others = [one for one in self._repository.specs if one.id.lower() != name]
        self._repository.specs[:] = [*others, spec]
        return spec

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.popleft()

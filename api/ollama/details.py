"""What this dialect tells of a model's files."""

from collections.abc import Sequence
from typing import Any

import structlog

from application.ports import ModelLibrary
from domain.errors import IngleError
from domain.library import ModelDetails
from domain.model import ModelSpec, WeightFormat

_log = structlog.get_logger("ingle.http")

_BILLION, _MILLION, _THOUSAND = 1e9, 1e6, 1e3


class KnownDetails:
    """Details of the installed models, read once for each state of their files."""

    def __init__(self, library: ModelLibrary) -> None:
        self._library = library
        self._known: dict[tuple[str, str], ModelDetails] = {}

    async def of_all(self, specs: Sequence[ModelSpec]) -> list[ModelDetails]:
        """Of each of `specs`, in order. A model whose files cannot be read has those of its spec."""
        keys = {(spec.id, spec.digest) for spec in specs}
        self._known = {key: known for key, known in self._known.items() if key in keys}
        return [await self.of(spec) for spec in specs]

    async def with_vocabulary(self, spec: ModelSpec) -> ModelDetails:
        """Of one model, with all its tokens where they are known here."""
        if spec.format is WeightFormat.REMOTE:
            return _details_of(spec)
        return await self._library.details(spec.id, vocabulary=True)

    async def of(self, spec: ModelSpec) -> ModelDetails:
        """Of one model."""
        if spec.format is WeightFormat.REMOTE:
            return _details_of(spec)
        key = (spec.id, spec.digest)
        if key not in self._known:
            try:
                self._known[key] = await self._library.details(spec.id)
            except IngleError as error:
                # A listing shows what can be shown; whoever loads the model is told what is wrong with it.
                _log.warning("details of a model cannot be read", model=spec.id, reason=str(error))
                return _details_of(spec)
        return self._known[key]


def _details_of(spec: ModelSpec) -> ModelDetails:
    """As much as is known without the files."""
    return ModelDetails(spec, spec.family, spec.title, parameters=spec.parameters, context_length=spec.context_length)


def full_name(spec: ModelSpec) -> str:
    """The name with its tag, as clients expect it."""
    return spec.id if ":" in spec.id.rpartition("/")[2] else f"{spec.id}:latest"


def details_body(details: ModelDetails) -> dict[str, Any]:
    """The object `details` of tags, ps and show; it describes the stored file."""
    spec = details.spec
    family = details.architecture or spec.family
    return {
        "parent_model": spec.preset.parent,
        "format": spec.format.value,
        "family": family,
        "families": [family] if family else [],
        "parameter_size": human_number(details.parameters or spec.parameters),
        "quantization_level": details.quantization,
        "context_length": details.context_length or spec.context_length,
        "embedding_length": details.embedding_length,
    }


def human_number(count: int) -> str:
    """A count of parameters as people write it: `494.03M`, `7.6B`; nothing for an unknown one."""
    for unit, sign, digits in ((_BILLION, "B", 1), (_MILLION, "M", 2), (_THOUSAND, "K", 0)):
        if count >= unit:
            return f"{count / unit:.{0 if count % unit == 0 else digits}f}{sign}"
    return str(count) if count else ""

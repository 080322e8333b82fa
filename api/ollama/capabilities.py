"""Whether a model can do what is asked of it, in the words that this dialect's clients know."""

from typing import Literal

from api.services import Services
from domain.errors import UnsupportedCapability
from domain.model import ModelSpec, Task


def spec_to(deed: Literal["chat", "generate"], services: Services, name: str) -> ModelSpec:
    """The installed text model that `name` means. Raises ModelNotFound, UnsupportedCapability."""
    spec = services.pool.repository.find(name)
    if spec.task is not Task.TEXT:
        raise UnsupportedCapability(f'"{name}" does not support {deed}', field="model")
    return spec


def spec_to_embed(services: Services, name: str) -> ModelSpec:
    """The installed model that `name` means and that reads texts. Raises ModelNotFound, UnsupportedCapability."""
    spec = services.pool.repository.find(name)
    if spec.task is Task.SPEECH:
        raise UnsupportedCapability(f"{name} does not support embedding", field="model")
    return spec

"""What others may see of the models that are in memory or on their way."""

from dataclasses import dataclass
from enum import StrEnum

from domain.memory import MemoryNeed
from domain.model import Model, ModelSpec


class ResidentState(StrEnum):
    """Where a model is on its way into memory and out of it.

    A suspended one has open requests and no weights: it waits for its turn, or is on its way back.
    """

    LOADING = "loading"
    LOADED = "loaded"
    SUSPENDED = "suspended"
    UNLOADING = "unloading"


@dataclass(frozen=True, slots=True)
class Resident:
    """A model in memory, or on its way, as others may see it. Times are seconds since the epoch.

    `model` is None until it is loaded, and while it is suspended; `expires_at` is None while the model is in use or
    never expires; `keep_alive` is how many seconds it stays after its last use, or FOREVER. `need` is what was foreseen
    of its memory and `bytes_taken` what its load was seen to take, None where others were taking and giving back at the
    same time; `held_back` tells that newcomers wait, as somebody waits for this model to leave, and `waits` that this
    one waits for room to be loaded into.
    """

    spec: ModelSpec
    model: Model | None
    state: ResidentState
    in_flight: int
    pinned: bool
    loaded_at: float
    last_used_at: float
    expires_at: float | None
    keep_alive: float
    need: MemoryNeed
    bytes_taken: int | None = None
    held_back: bool = False
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Unloaded:
    """What an unload did. `was_loaded` is False when there was nothing to do."""

    model_id: str
    was_loaded: bool
    bytes_freed: int

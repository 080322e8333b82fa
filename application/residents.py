"""The pool's records: one slot for each model that is in memory or on its way."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from domain.errors import IngleError
from domain.model import LoadOptions, Model, ModelSpec
from domain.repositories import LoadedModel, OnLoadProgress


class ResidentState(StrEnum):
    """Where a model is on its way into memory and out of it."""

    LOADING = "loading"
    LOADED = "loaded"
    UNLOADING = "unloading"


@dataclass(frozen=True, slots=True)
class Resident:
    """A model in memory, or on its way, as others may see it. Times are seconds since the epoch.

    `model` is None until it is loaded; `expires_at` is None while the model is in use or never expires.
    """

    spec: ModelSpec
    model: Model | None
    state: ResidentState
    in_flight: int
    pinned: bool
    loaded_at: float
    last_used_at: float
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class Unloaded:
    """What an unload did. `was_loaded` is False when there was nothing to do."""

    model_id: str
    was_loaded: bool
    bytes_freed: int


@dataclass(slots=True, eq=False)
class Slot:
    """A model's place in the pool, changed only by the pool and only on the event loop.

    `users` counts leases and those who wait for the load to get one, so a model cannot expire between its
    load and its first use. `revoked` turns those who still wait away while a forced unload goes on.
    """

    spec: ModelSpec
    options: LoadOptions
    keep_alive: float
    state: ResidentState = ResidentState.LOADING
    loaded: LoadedModel | None = None
    work: "asyncio.Task[int] | None" = None
    failure: IngleError | None = None
    users: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    revoked: bool = False
    pinned: bool = False
    timer: asyncio.TimerHandle | None = None
    expires_at: float | None = None
    loaded_at: float = 0.0
    last_used_at: float = 0.0
    listeners: list[OnLoadProgress] = field(default_factory=list)

    def is_idle(self) -> bool:
        """In memory, lent to nobody, and free to go."""
        return self.state is ResidentState.LOADED and self.users == 0 and not self.pinned

    def disarm(self) -> None:
        """Stop the expiry timer."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer, self.expires_at = None, None

    def arm(self, now: float, expire: Callable[["Slot"], None]) -> None:
        """Start the expiry timer: the model is idle from `now` (seconds since the epoch)."""
        self.disarm()
        if not self.pinned and math.isfinite(self.keep_alive):
            self.expires_at = now + self.keep_alive
            self.timer = asyncio.get_running_loop().call_later(self.keep_alive, expire, self)

    def view(self) -> Resident:
        """The slot as others may see it."""
        return Resident(
            spec=self.spec,
            model=self.loaded.info if self.loaded else None,
            state=self.state,
            in_flight=self.users,
            pinned=self.pinned,
            loaded_at=self.loaded_at,
            last_used_at=self.last_used_at,
            expires_at=self.expires_at,
        )

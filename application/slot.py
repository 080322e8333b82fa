"""A model's place in the pool."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from application.leavers import Cleared, Leaver
from application.residents import Resident, ResidentState
from domain.errors import IngleError
from domain.memory import MemoryNeed
from domain.model import LoadOptions, ModelSpec
from domain.repositories import LoadedModel, OnLoadProgress, SuspendedModel


@dataclass(slots=True, eq=False)
class Slot:
    """A model's place in the pool, changed only by the pool and only on the event loop.

    `users` counts leases and those who wait for the load to get one, so a model cannot expire between its
    load and its first use; `idle` is set while there are none. `settled` is set when the waiters for the load
    may go on: to their lease, or to `failure` if there is one (a forced unload sets it before the load ends).
    `work` is the load, then the unload; once the state is UNLOADING it is not replaced any more. `open` is cleared
    while newcomers have to wait because somebody waits for this model to leave. `need` is what was foreseen of its
    memory, `is_booked` tells that it may have begun to take it, and `bytes_taken` is what its load was seen to take.
    `held_since` is when, in monotonic seconds, it was last loaded. `suspended` are the open requests of a model whose
    weights had to make way; its load begins anew, so `settled` is cleared until it is back.
    `cleared` is what had to leave for it, and `comes_back` tells that it had to leave for a load that failed: it is
    loaded again without a user, as long as that takes nothing from others.
    """

    spec: ModelSpec
    options: LoadOptions
    need: MemoryNeed
    keep_alive: float
    state: ResidentState = ResidentState.LOADING
    loaded: LoadedModel | None = None
    work: "asyncio.Task[int | None] | None" = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    failure: IngleError | None = None
    users: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    is_booked: bool = False
    bytes_taken: int | None = None
    pinned: bool = False
    timer: asyncio.TimerHandle | None = None
    expires_at: float | None = None
    loaded_at: float = 0.0
    last_used_at: float = 0.0
    listeners: list[OnLoadProgress] = field(default_factory=list)
    held_since: float = 0.0
    suspended: SuspendedModel | None = None
    cleared: Cleared = field(default_factory=Cleared)
    comes_back: bool = False

    def __post_init__(self) -> None:
        self.idle.set()
        self.open.set()

    def enter(self) -> None:
        """One more user."""
        self.users += 1
        self.idle.clear()
        self.disarm()

    def leave(self, now: float) -> None:
        """One user fewer, at `now` (seconds since the epoch)."""
        self.users -= 1
        self.last_used_at = now
        if self.users == 0:
            self.idle.set()

    def settle(self, failure: IngleError | None = None) -> None:
        """Let the waiters for the load go on; the first failure stays."""
        self.failure = self.failure or failure
        self.settled.set()

    def is_idle(self) -> bool:
        """In memory, lent to nobody, and free to go."""
        return self.state is ResidentState.LOADED and self.users == 0 and not self.pinned

    def is_wanted(self) -> bool:
        """Whether its load is still for anything."""
        return self.state is not ResidentState.UNLOADING and (self.users > 0 or self.comes_back)

    def as_leaver(self) -> Leaver:
        """How it can be brought back."""
        return Leaver(self.spec, self.options, self.keep_alive, self.expires_at)

    def is_coming(self) -> bool:
        """Before its load, or on its way."""
        return self.state in (ResidentState.LOADING, ResidentState.SUSPENDED)

    def is_in_line(self) -> bool:
        """Suspended, with nothing of its return begun."""
        return self.state is ResidentState.SUSPENDED and self.suspended is not None and not self.is_booked

    def pause(self) -> None:
        """From now on its requests, and those to come, wait until it is loaded again."""
        self.state = ResidentState.SUSPENDED
        self.comes_back = False
        self.settled.clear()
        self.open.set()

    def is_leaving(self) -> bool:
        """On its way out of memory with nobody holding it back."""
        return self.state is ResidentState.UNLOADING and self.users == 0 and self.loaded is not None

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
            model=self.loaded.info if self.loaded and self.state is not ResidentState.SUSPENDED else None,
            state=self.state,
            in_flight=self.users,
            pinned=self.pinned,
            loaded_at=self.loaded_at,
            last_used_at=self.last_used_at,
            expires_at=self.expires_at,
            keep_alive=self.keep_alive,
            need=self.need,
            bytes_taken=self.bytes_taken,
            held_back=not self.open.is_set(),
            waits=self.is_coming() and not self.is_booked,
        )

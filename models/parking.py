"""Weights that gave way on a device and wait in the machine's own memory, so that their next turn begins sooner."""

import threading
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


@dataclass(frozen=True, slots=True)
class Berth:
    """Which weights (64 hex digits), on which device, in which precision by the name that their loader has for it."""

    digest: str
    device: str
    precision: str


class Movable(Protocol):
    """Weights that were moved to host memory."""

    def come_back(self) -> None:
        """Move them onto their device again. Raises RuntimeError where they do not fit."""
        ...


W = TypeVar("W", bound=Movable)


class Parking(Generic[W]):
    """Weights of one kind that were moved to host memory. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parked: dict[Berth, W] = {}

    def put(self, berth: Berth, weights: W) -> None:
        """Keep weights that have left their device for host memory."""
        with self._lock:
            self._parked[berth] = weights

    def take(self, berth: Berth) -> W | None:
        """The weights, on their device again; None if they are not here. Raises RuntimeError where they do not fit."""
        with self._lock:
            weights = self._parked.pop(berth, None)
        if weights is not None:
            weights.come_back()
        return weights

    def clear(self) -> bool:
        """Let all of them go; whether there were any."""
        with self._lock:
            parked, self._parked = self._parked, {}
        return bool(parked)

"""Weights that gave way on a GPU and wait in the machine's own memory, so that their next turn begins sooner."""

import threading
from dataclasses import dataclass

from models.speech.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Berth:
    """Which weights, on which device, in which compute type."""

    digest: str
    device: str
    compute_type: str


class Parking:
    """Checkpoints whose weights CTranslate2 has moved to host memory. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parked: dict[Berth, Checkpoint] = {}

    def put(self, berth: Berth, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint that was told to leave its device for host memory."""
        with self._lock:
            self._parked[berth] = checkpoint

    def take(self, berth: Berth) -> Checkpoint | None:
        """The checkpoint, on its device again; None if it is not here. Raises RuntimeError where it does not fit.

        Its copy in host memory stays, so that it can give way again without being moved.
        """
        with self._lock:
            checkpoint = self._parked.pop(berth, None)
        if checkpoint is not None:
            checkpoint.model.load_model(keep_cache=True)
        return checkpoint

    def clear(self) -> bool:
        """Let all of them go; whether there were any."""
        with self._lock:
            parked, self._parked = self._parked, {}
        return bool(parked)

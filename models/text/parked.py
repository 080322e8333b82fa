"""Weights of a text model that gave way on their device and wait in the machine's own memory."""

import logging
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from models import memory
from models.parking import Berth, Parking
from models.text.moving import HostRoom, bytes_of, distinct, move, move_to
from models.text.weights import LoadedWeights

log = logging.getLogger(__name__)


class ParkedWeights:
    """A model, ready to run but for the place where its weights are."""

    def __init__(self, loaded: LoadedWeights, device: torch.device) -> None:
        """Move `loaded` off `device`. Raises RuntimeError where there is no room, and then nothing has moved.

        Nobody may use the model meanwhile. Takes as long as the bus needs for the bytes.
        """
        self.loaded = loaded
        self._device = device
        model = _movable(loaded)
        self._room = HostRoom(bytes_of(model), len(distinct(model)), device)
        move(model, self._room.copy)

    def come_back(self) -> None:
        """Move the weights onto their device again; see `models.parking.Movable`."""
        move_to(_movable(self.loaded), self._device)
        self._room.close()


@dataclass(frozen=True, slots=True)
class WaitingPlace:
    """Where the weights of one model wait, and whoever loads it looks first."""

    parking: Parking[ParkedWeights]
    berth: Berth

    def take(self) -> LoadedWeights | None:
        """The weights that wait here, on their device again; None if there are none, or they do not fit any more."""
        try:
            parked = self.parking.take(self.berth)
        except RuntimeError as error:
            if not memory.ran_out(error):
                raise
            log.warning(
                "weights that waited in host memory do not fit on %s any more, and are read from disk: %s",
                self.berth.device,
                str(error).partition("\n")[0],
            )
            return None
        return None if parked is None else parked.loaded


@dataclass(frozen=True, slots=True)
class Kept:
    """The weights of an engine that was closed. They are gone unless they are parked."""

    loaded: LoadedWeights
    place: WaitingPlace

    @property
    def bytes(self) -> int:
        """What they take, on a device or in host memory."""
        return bytes_of(_movable(self.loaded))

    def park(self) -> None:
        """Have them wait in host memory. Blocks; raises as `ParkedWeights` does."""
        berth = self.place.berth
        self.place.parking.put(berth, ParkedWeights(self.loaded, torch.device(berth.device)))


def _movable(loaded: LoadedWeights) -> PreTrainedModel:
    """The native kernels keep weights where they are."""
    assert isinstance(loaded.model, PreTrainedModel)
    return loaded.model

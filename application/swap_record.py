"""What made way for what, as it is told to those who watch."""

from application.device_arbiter import group_of
from application.device_standing import Swaps
from application.events import DeviceSwapped, Publish
from application.leavers import Cleared
from application.ports import Clock
from application.slot import Slot


class SwapRecord:
    """Counts the swaps of each device, and keeps the last one. `on` has them by device."""

    def __init__(self, clock: Clock, publish: Publish) -> None:
        self._clock = clock
        self._publish = publish
        self.on: dict[str, Swaps] = {}
        self.last: DeviceSwapped | None = None

    def tell(self, slot: Slot, seconds: float) -> None:
        """`slot` was loaded, `seconds` after it was wanted; if nothing had to make way, that is no swap."""
        cleared, slot.cleared = slot.cleared, Cleared()
        if cleared.is_empty:
            return
        came = group_of(slot.spec.task)
        swap = DeviceSwapped(
            slot.need.device,
            tuple(cleared.model_ids),
            slot.spec.id,
            seconds,
            cleared.bytes_freed,
            at=self._clock.now(),
            left=next(iter(cleared.groups - {came}), came),
            came=came,
            suspended=tuple(cleared.suspended),
        )
        past = self.on.get(swap.device)
        self.on[swap.device] = Swaps(1 if past is None else past.total + 1, swap)
        self.last = swap
        self._publish(swap)

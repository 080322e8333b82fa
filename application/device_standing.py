"""Who holds a device and who waits for it, told from the models that are there or on their way. For showing only."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from application.device_arbiter import Group, Sharing, group_of
from application.events import DeviceSwapped
from application.residents import Resident, ResidentState


@dataclass(frozen=True, slots=True)
class DeviceStanding:
    """One device, now.

    `holder` is the only group that has models there, for `held_seconds` by the oldest of them; None if there are both
    or none. `waiting` are the groups that want to load and have no room, `suspended` the models whose requests wait for
    their return. Where sharing is left to the arbiter, it is exclusive as long as one group waits for the other.
    """

    device: str
    sharing: Sharing
    holder: Group | None
    held_seconds: float | None
    waiting: tuple[Group, ...]
    suspended: tuple[str, ...]
    swaps_total: int
    last_swap: DeviceSwapped | None


@dataclass(frozen=True, slots=True)
class Swaps:
    """How often models of a device had to leave for another one, and the last time that they did."""

    total: int
    last: DeviceSwapped


def standing_of(
    device: str, residents: Iterable[Resident], sharing: Sharing, swaps: Mapping[str, Swaps], now: float
) -> DeviceStanding:
    """The standing of `device`, whose `residents` are among those given; `now` is in seconds since the epoch."""
    mine = [resident for resident in residents if resident.need.device == device]
    there = [resident for resident in mine if resident.model is not None]
    holders = {group_of(resident.spec.task) for resident in there}
    waiting = {group_of(resident.spec.task) for resident in mine if resident.waits}
    holder = holders.copy().pop() if len(holders) == 1 else None
    if sharing is Sharing.AUTO:
        sharing = Sharing.EXCLUSIVE if any(holders - {group} for group in waiting) else Sharing.SHARED
    past = swaps.get(device)
    return DeviceStanding(
        device=device,
        sharing=sharing,
        holder=holder,
        held_seconds=max(0.0, now - min(one.loaded_at for one in there)) if holder is not None else None,
        waiting=tuple(sorted(waiting)),
        suspended=tuple(one.spec.id for one in mine if one.state is ResidentState.SUSPENDED),
        swaps_total=past.total if past else 0,
        last_swap=past.last if past else None,
    )

"""Who gets a device's memory: what has to happen before a model may be loaded beside those that are there.

Pure decisions: the pool measures, asks, acts, and asks again whenever something has changed. Models of one device
form two groups, speech and the rest, which share the device as far as they fit. Where they do not, the one who waits
stops the newcomers of those in its way, so that they finish and leave; whoever comes to them meanwhile waits behind
it, and is served in its turn. Models of the other group that are still at work at the end of the hold are suspended:
they join the line for the device, and go on where they were when it is their turn again.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from domain.eviction import Holding, victims_for
from domain.memory import MemoryBudget
from domain.model import Task


class Sharing(StrEnum):
    """Whether the groups may be on one device together: where both fit, always, or never."""

    AUTO = "auto"
    SHARED = "shared"
    EXCLUSIVE = "exclusive"


class Group(StrEnum):
    """Who shares a device: speech, and text with embeddings."""

    SPEECH = "speech"
    TEXT = "text"


def group_of(task: Task) -> Group:
    """The group that models for `task` belong to."""
    return Group.SPEECH if task is Task.SPEECH else Group.TEXT


@dataclass(frozen=True, slots=True)
class Wish:
    """A model that is to be loaded: `bytes` is what it needs, `waited` the seconds that it has stood first in line.

    `returns` tells that it was suspended: requests that it has begun wait for it, so it never gives up.
    """

    task: Task
    bytes: int
    waited: float = 0.0
    returns: bool = False


@dataclass(frozen=True, slots=True)
class Tenant:
    """A model on the device, or on its way there (then in use); `leaving` when it is on its way off.

    `held` is for how many seconds it has been there since it was last loaded, less than any hold on its way there. One
    that `can_pause` may be suspended while it is in use.
    """

    task: Task
    holding: Holding
    leaving: bool = False
    held: float = math.inf
    can_pause: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """There is room: load now."""


@dataclass(frozen=True, slots=True)
class Evict:
    """Unload these, then ask again."""

    model_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again when something changes; `held_back` take no newcomers until then."""

    held_back: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Suspend:
    """Stop these where they are and take them off the device, then ask again: they have had their time."""

    model_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Those that hold the memory were busy for too long: `blockers`."""

    blockers: Sequence[str]


@dataclass(frozen=True, slots=True)
class NeverFits:
    """Not even if everybody left who can; `pinned` are those who cannot."""

    pinned: Sequence[str]


Decision = Load | Evict | Wait | Suspend | GiveUp | NeverFits


@dataclass(frozen=True, slots=True)
class DeviceArbiter:
    """`max_hold` is how long, in seconds, who waits for room lets those in its way finish.

    Then those that can be suspended are, once each has been there for as long itself; for others it gives up. With 0
    it gives up at once, as nobody would get anything done in so short a turn.
    """

    sharing: Sharing = Sharing.AUTO
    max_hold: float = 30.0

    def decide(self, wish: Wish, budget: MemoryBudget, tenants: Iterable[Tenant]) -> Decision:
        """What to do for `wish`, the first in line."""
        if not wish.bytes:
            # It works elsewhere: nobody here is in its way.
            return Load()
        tenants = list(tenants)
        strangers = [tenant for tenant in tenants if self._may_not_stay(tenant, wish)]
        if wish.bytes <= budget.room and not strangers:
            return Load()
        leaving = [tenant.holding.model_id for tenant in tenants if tenant.leaving]
        if leaving:
            # What they give back cannot be measured yet.
            return self._patiently(wish, Wait(), leaving)
        pinned = [tenant.holding for tenant in tenants if tenant.holding.pinned]
        movable = [tenant for tenant in tenants if not tenant.holding.pinned]
        never = wish.bytes > budget.ceiling - sum(holding.bytes for holding in pinned)
        if never or not movable or any(tenant.holding.pinned for tenant in strangers):
            return NeverFits([holding.model_id for holding in pinned])
        return self._make_room(wish, wish.bytes - budget.room, strangers, movable)

    def _make_room(self, wish: Wish, shortage: int, strangers: Sequence[Tenant], movable: Sequence[Tenant]) -> Decision:
        """All `strangers` have to go, and of the other `movable` as many as give back what is short then."""
        shortage -= sum(tenant.holding.bytes for tenant in strangers)
        others = [tenant.holding for tenant in movable if tenant not in strangers]
        victims = victims_for(shortage, others)
        if victims is None:
            victims = victims_for(shortage, [replace(holding, in_use=False) for holding in others])
        if victims is None:
            # More is held than what was seen to be taken: it is found out when they have gone.
            victims = [holding.model_id for holding in others]
        going = [tenant for tenant in movable if tenant in strangers or tenant.holding.model_id in victims]
        busy = [tenant for tenant in going if tenant.holding.in_use]
        if not busy:
            return Evict([tenant.holding.model_id for tenant in going])
        held_back = [tenant.holding.model_id for tenant in busy if self._may_be_stopped(tenant, wish)]
        if wish.waited >= self.max_hold and all(self._may_be_suspended(tenant, wish) for tenant in busy):
            is_over = all(tenant.held >= self.max_hold for tenant in busy)
            return Suspend([tenant.holding.model_id for tenant in busy]) if is_over else Wait(held_back)
        return self._patiently(wish, Wait(held_back), [tenant.holding.model_id for tenant in busy])

    def _may_not_stay(self, tenant: Tenant, wish: Wish) -> bool:
        return self.sharing is Sharing.EXCLUSIVE and group_of(tenant.task) != group_of(wish.task)

    def _may_be_stopped(self, tenant: Tenant, wish: Wish) -> bool:
        """Where the groups share come what may, one does not stop the other."""
        return self.sharing is not Sharing.SHARED or group_of(tenant.task) == group_of(wish.task)

    def _may_be_suspended(self, tenant: Tenant, wish: Wish) -> bool:
        """Inside a group it is first come first served, except that who was suspended is not kept away for ever."""
        is_stranger = group_of(tenant.task) != group_of(wish.task)
        may_pause = tenant.can_pause and self.max_hold > 0
        return may_pause and self._may_be_stopped(tenant, wish) and (is_stranger or wish.returns)

    def _patiently(self, wish: Wish, wait: Wait, blockers: Sequence[str]) -> Decision:
        return wait if wish.returns or wish.waited < self.max_hold else GiveUp(blockers)

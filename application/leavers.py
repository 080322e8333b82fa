"""Who had to leave memory for a load, kept until it is done, so that they come back if it fails."""

from dataclasses import dataclass, field

from application.device_arbiter import Group, group_of
from domain.model import LoadOptions, ModelSpec


@dataclass(frozen=True, slots=True)
class Leaver:
    """A model as it was in memory; `expires_at` (seconds since the epoch) is when it would have left by itself."""

    spec: ModelSpec
    options: LoadOptions
    keep_alive: float
    expires_at: float | None


@dataclass(slots=True)
class Cleared:
    """What had to make way for a load so far: `model_ids` left, of which `leavers` may come back.

    `suspended` made way while they were in use, and wait for their turn by themselves. `groups` are those of both.
    """

    model_ids: list[str] = field(default_factory=list)
    suspended: list[str] = field(default_factory=list)
    groups: set[Group] = field(default_factory=set)
    bytes_freed: int = 0
    leavers: list[Leaver] = field(default_factory=list)

    def add(self, leaver: Leaver) -> None:
        """One more leaves."""
        self.model_ids.append(leaver.spec.id)
        self.leavers.append(leaver)
        self.groups.add(group_of(leaver.spec.task))

    def suspend(self, spec: ModelSpec) -> None:
        """One more makes way while it is in use."""
        self.suspended.append(spec.id)
        self.groups.add(group_of(spec.task))

    @property
    def is_empty(self) -> bool:
        """Whether nobody had to make way."""
        return not (self.model_ids or self.suspended)

    def forget(self, model_id: str) -> None:
        """A model is not to come back: somebody has loaded it since, or wants it to be out of memory."""
        self.leavers = [leaver for leaver in self.leavers if leaver.spec.id != model_id]

    def returning(self, now: float) -> list[Leaver]:
        """Those that would still be there at `now`, once: who was the last to be given up comes first."""
        leavers, self.leavers = self.leavers, []
        return [one for one in reversed(leavers) if one.expires_at is None or now < one.expires_at]

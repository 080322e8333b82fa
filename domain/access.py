"""Who may do what: keys with scopes, bound to owners of jobs and to model profiles."""

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """What a key opens. ADMIN opens everything."""

    INFER = "infer"
    FILES = "files"
    JOBS = "jobs"
    WORKER = "worker"
    METRICS = "metrics"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the name of the key, and what it opens; the name is empty where nobody showed a key.

    `owners` bind JOBS and FILES, `profiles` bind WORKER; none of them binds nothing. ADMIN is never bound.
    """

    name: str
    scopes: frozenset[Scope]
    owners: frozenset[str] = frozenset()
    profiles: frozenset[str] = frozenset()

    @property
    def is_admin(self) -> bool:
        """Whether everything is open."""
        return Scope.ADMIN in self.scopes

    def may(self, *scopes: Scope) -> bool:
        """Whether one of `scopes` is open."""
        return self.is_admin or not self.scopes.isdisjoint(scopes)

    @property
    def bound_owners(self) -> frozenset[str] | None:
        """The only owners whose jobs there are for this caller; None means everybody's."""
        return None if self.is_admin or not self.owners else self.owners

    @property
    def bound_profiles(self) -> frozenset[str] | None:
        """The only model profiles whose jobs there are for this worker; None means all."""
        return None if self.is_admin or not self.profiles else self.profiles

    @property
    def sole_owner(self) -> str | None:
        """The owner of what this caller makes without naming one."""
        return next(iter(self.owners)) if len(self.owners) == 1 else None

    def acts_for(self, owner: str) -> bool:
        """Whether the jobs and files of `owner` are this caller's."""
        return self.bound_owners is None or owner in self.bound_owners

    def runs(self, profile: str) -> bool:
        """Whether jobs of `profile` are this worker's."""
        return self.bound_profiles is None or profile in self.bound_profiles


EVERYBODY = Caller("", frozenset(Scope))
"""The caller where no keys are configured."""
NOBODY = Caller("", frozenset())
"""The caller who showed no key, or none that is known, where keys are configured."""

"""Which model a job's profile means here: the names and aliases of the registry, and some that are only profiles."""

from collections.abc import Collection, Mapping

from application.model_pool import ModelPool
from application.residents import ResidentState
from domain.errors import IngleError


class ModelProfiles:
    """Profiles by the names of models; `further` maps those that only jobs use to a model's name."""

    def __init__(self, pool: ModelPool, further: Mapping[str, str]) -> None:
        self._pool = pool
        self._further = dict(further)

    def model_of(self, profile: str) -> str:
        """The name of the model that runs jobs of `profile`."""
        return self._further.get(profile, profile)

    def runs(self, profile: str) -> bool:
        """Whether there is a model for it."""
        return self._spec_id(profile) is not None

    def loaded(self, profiles: Collection[str]) -> Collection[str]:
        """Those of `profiles` whose models are in memory."""
        here = {one.spec.id for one in self._pool.residents() if one.state is ResidentState.LOADED}
        return [profile for profile in profiles if self._spec_id(profile) in here]

    def _spec_id(self, profile: str) -> str | None:
        try:
            return self._pool.repository.find(self.model_of(profile)).id
        except IngleError:
            return None

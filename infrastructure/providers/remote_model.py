"""What every model of a provider has in common, whatever it is for."""

from domain.model import Model
from infrastructure.providers.connection import Connection
from infrastructure.providers.entry import ProvidedModel
from infrastructure.providers.work import Calls


class RemoteModel:
    """Implements `domain.repositories.LoadedModel`: a model that takes no memory and waits for its provider."""

    def __init__(self, provided: ProvidedModel, info: Model, connection: Connection) -> None:
        self._provided = provided
        self._info = info
        self._connection = connection
        self._calls = Calls(provided.provider.max_in_flight)

    @property
    def info(self) -> Model:
        """The entity; it takes no memory."""
        return self._info

    @property
    def waiting(self) -> int:
        """How many calls the provider has not begun to answer."""
        return self._calls.waiting

    def abort(self) -> None:
        """End all work, for good."""
        self._calls.abort()

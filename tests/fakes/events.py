"""A recorder of events, to be handed over as `Publish`."""

from typing import TypeVar

from application.events import Event

E = TypeVar("E")


class RecordedEvents(list[Event]):
    """Every event in the order in which it was published."""

    def __call__(self, event: Event) -> None:
        """Record `event`."""
        self.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """The recorded events of one kind."""
        return [event for event in self if isinstance(event, kind)]

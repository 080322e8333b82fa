"""Who wants a model now, who has it, and what became of those before them. For showing, never for control."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from application.ports import Clock
from domain.errors import Overloaded, RequestCancelled
from domain.model import Task
from domain.repositories import LoadedModel

_NEWEST_WEIGHT = 0.2


@dataclass(eq=False, slots=True)
class Work:
    """One request for a model, by the name that was asked for. Times are monotonic seconds.

    `model` is there once it is lent. `waited` is told at the end.
    """

    kind: Task
    name: str
    request_id: str
    entered_at: float
    model: LoadedModel | None = None
    waited: float | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a request stands: running (position 0), or queued behind the same model's others, counted from 1.

    `eta_seconds` is how long until it runs, None while nothing is known of the model's pace.
    """

    work: Work
    position: int
    eta_seconds: float | None

    @property
    def is_queued(self) -> bool:
        """Whether the model has not begun with it."""
        return self.position > 0


@dataclass(slots=True)
class Pace:
    """How long requests of a model wait and take, in seconds; the newest count most."""

    waited: float
    took: float

    def note(self, waited: float, took: float) -> None:
        """One more request is done."""
        self.waited += _NEWEST_WEIGHT * (waited - self.waited)
        self.took += _NEWEST_WEIGHT * (took - self.took)


class RequestsInFlight:
    """Counts requests for models. `processed` ended well; `admitted` are all that were not refused."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._live: list[Work] = []
        self._paces: dict[str, Pace] = {}
        self._ended = 0
        self.processed = 0
        self.rejected = 0
        self.cancelled = 0
        self.last_processed_at: float | None = None

    @property
    def admitted(self) -> int:
        """How many were taken on, those in flight among them."""
        return self._ended + len(self._live)

    @contextmanager
    def entered(self, kind: Task, name: str, request_id: str) -> Iterator[Work]:
        """Somebody wants the model `name`, until the block ends; how it ends is what is counted."""
        work = Work(kind, name, request_id, self._clock.monotonic())
        self._live.append(work)
        failure: BaseException | None = None
        try:
            yield work
        except BaseException as error:
            failure = error
            raise
        finally:
            self._live.remove(work)
            self._count(work, failure)

    def finished(self, request_id: str, waited: float) -> None:
        """A request has its whole answer, after `waited` seconds in line."""
        for work in self._live:
            if work.request_id == request_id and work.waited is None:
                work.waited = waited
                return

    def _count(self, work: Work, failure: BaseException | None) -> None:
        if work.waited is not None:
            self.processed += 1
            self.last_processed_at = self._clock.now()
            self._note_pace(work, work.waited)
        elif isinstance(failure, Overloaded):
            self.rejected += 1
        elif isinstance(failure, asyncio.CancelledError | GeneratorExit | RequestCancelled):
            self.cancelled += 1
        if work.model is not None and not isinstance(failure, Overloaded):
            self._ended += 1

    def _note_pace(self, work: Work, waited: float) -> None:
        if work.model is None:
            return
        took = max(0.0, self._clock.monotonic() - work.entered_at - waited)
        pace = self._paces.setdefault(work.model.info.id, Pace(waited, took))
        pace.note(waited, took)

    def pace_of(self, model_id: str) -> Pace | None:
        """How fast a model has been; None before its first answer."""
        return self._paces.get(model_id)

    def standings(self) -> Sequence[Standing]:
        """Everybody in flight, in order of arrival.

        A model says how many wait for it and not which: they are taken to be those who came last.
        """
        by_model: dict[LoadedModel | str, list[Work]] = {}
        for work in self._live:
            by_model.setdefault(work.model or work.name, []).append(work)
        found: dict[Work, Standing] = {}
        for model, works in by_model.items():
            waiting = len(works) if isinstance(model, str) else min(len(works), model.waiting)
            running = len(works) - waiting
            pace = None if isinstance(model, str) else self.pace_of(model.info.id)
            for index, work in enumerate(works):
                position = max(0, index - running + 1)
                eta = None if pace is None else position * pace.took / max(1, running)
                found[work] = Standing(work, position, eta)
        return [found[work] for work in self._live]

    def standing_of(self, request_id: str) -> Standing | None:
        """The first in flight of that id; None for one that is not here, or not any more."""
        return next((one for one in self.standings() if one.work.request_id == request_id), None)

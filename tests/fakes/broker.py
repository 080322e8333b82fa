"""A broker and the jobs that it is to be told of, in memory."""

from collections.abc import Collection, Sequence

from application.job_ports import Call


class InMemoryBroker:
    """A Broker that remembers what it was told; it is away, or full of some types, when a test says so."""

    def __init__(self, *types: str) -> None:
        self.types = types
        self.told: list[str] = []
        self.asked = 0
        self.is_away = False
        self.breaks_after: int | None = None
        self.is_closed = False

    async def open_types(self) -> Collection[str] | None:
        """Those that it takes."""
        self.asked += 1
        return None if self.is_away else self.types

    async def publish(self, calls: Sequence[Call]) -> Collection[str]:
        """Remember them, as long as it does not break."""
        sent = len(calls) if self.breaks_after is None else self.breaks_after
        self.told += [call.job_id for call in calls[:sent]]
        if self.breaks_after is not None:
            self.is_away, self.breaks_after = True, None
        return [call.job_id for call in calls[sent:]]

    async def close(self) -> None:
        """Remember it."""
        self.is_closed = True


class InMemoryCalls:
    """A Dispatchable: a line of calls."""

    def __init__(self) -> None:
        self.waiting: list[Call] = []
        self.taken: dict[str, Call] = {}

    async def undispatched(self, limit: int, task_types: Collection[str]) -> Sequence[Call]:
        """The first of the line."""
        calls = [call for call in self.waiting if call.task_type in task_types][:limit]
        self.waiting = [call for call in self.waiting if call not in calls]
        self.taken |= {call.job_id: call for call in calls}
        return calls

    async def untold(self, job_ids: Collection[str]) -> None:
        """Back to the front of the line."""
        self.waiting = [self.taken.pop(one) for one in job_ids] + self.waiting

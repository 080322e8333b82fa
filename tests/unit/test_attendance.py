"""Workers of other programs, noted when they ask for work."""

from application.attendance import REMEMBERED, Attendance
from application.job_ports import WorkerRecord
from domain.errors import DatabaseBusy
from tests.fakes.clock import FakeClock
from tests.fakes.workers import InMemoryWorkers


class CountedWorkers(InMemoryWorkers):
    """Counts the notes, and may be away."""

    def __init__(self) -> None:
        super().__init__()
        self.notes = 0
        self.away = False

    async def seen(self, worker: WorkerRecord) -> None:
        self.notes += 1
        if self.away:
            raise DatabaseBusy
        await super().seen(worker)


async def test_a_worker_is_noted_once_in_ten_seconds() -> None:
    register, clock = CountedWorkers(), FakeClock()
    desk = Attendance(register, clock)
    for _ in range(3):
        await desk.note("gpu-1", ["b", "a"])
    await desk.note("gpu-2", [])
    assert register.notes == 2
    clock.advance(10.0)
    await desk.note("gpu-1", [])
    assert register.notes == 3
    one = register.records["gpu-2"]
    assert (one.kind, one.name, one.host, one.pid) == ("http", "gpu-2", "", 0)


async def test_a_register_that_is_away_refuses_nobody() -> None:
    register = CountedWorkers()
    register.away = True
    await Attendance(register, FakeClock()).note("gpu-1", [])
    assert register.notes == 1


async def test_names_that_nobody_comes_back_under_are_forgotten() -> None:
    register = CountedWorkers()
    desk = Attendance(register, FakeClock())
    for number in range(REMEMBERED + 1):
        await desk.note(f"w-{number}", [])
    for number in (1, 0):
        await desk.note(f"w-{number}", [])
    assert register.notes == REMEMBERED + 2

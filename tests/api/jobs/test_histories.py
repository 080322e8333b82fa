"""Many workers at once: what they were told, read per job as a register, is what one machine could have said."""

import asyncio
import random
from collections import Counter, defaultdict

import pytest

from domain.job_repository import Reap
from tests.api.jobs.conftest import BODY, Office
from tests.api.jobs.registers import Call, is_linearizable

Histories = dict[str, list[Call]]


def ended(attempt: int, effect: str, begin: int, end: float) -> Call:
    return Call(attempt, effect, begin, end)


@pytest.mark.parametrize(
    ("calls", "holds"),
    [
        ([ended(1, "claimed", 0, 1), ended(1, "completed", 2, 3), ended(1, "replayed", 4, 5)], True),
        ([ended(1, "claimed", 0, 1), ended(2, "claimed", 2, 3), ended(1, "lost", 4, 5)], True),
        ([ended(1, "claimed", 0, 9), ended(1, "completed", 1, 2)], True),
        ([ended(1, "claimed", 0, 1), ended(1, "unknown", 2, float("inf")), ended(2, "claimed", 3, 4)], True),
        # Held twice; written by one who had lost it; done twice; claimed after it was done; lost and done.
        ([ended(1, "claimed", 0, 1), ended(1, "claimed", 2, 3)], False),
        ([ended(1, "claimed", 0, 1), ended(2, "claimed", 2, 3), ended(1, "completed", 4, 5)], False),
        ([ended(1, "claimed", 0, 1), ended(1, "completed", 2, 3), ended(1, "completed", 4, 5)], False),
        ([ended(1, "claimed", 0, 1), ended(1, "completed", 2, 3), ended(2, "claimed", 4, 5)], False),
        ([ended(1, "claimed", 0, 1), ended(1, "lost", 2, 3), ended(1, "completed", 4, 5)], False),
        ([ended(1, "claimed", 0, 1), ended(1, "completed", 2, 3), ended(1, "lost", 4, 5)], False),
        ([ended(1, "completed", 0, 1), ended(1, "claimed", 2, 3)], False),
    ],
)
def test_a_history_that_no_machine_could_have_made_is_found(calls: list[Call], holds: bool) -> None:
    assert is_linearizable(calls) is holds


async def submitted(office: Office, count: int) -> list[str]:
    jobs = [{"input": {"n": number}} for number in range(count)]
    answer = await office.post("/jobs/batch", {"defaults": BODY, "jobs": jobs})
    assert answer.status_code == 201, answer.text
    return [entry["id"] for entry in answer.json()["jobs"]]


async def claimed(office: Office, name: str, limit: int, histories: Histories) -> list[tuple[str, int, str]]:
    call = Call(0, "unknown")
    found = []
    for job in await office.claim(worker_id=name, limit=limit):
        histories[job["id"]].append(Call(0, "unknown", call.begin).heard("claimed", job["attempt"]))
        found.append((job["id"], job["attempt"], job["lease_token"]))
    return found


async def completed(office: Office, held: tuple[str, int, str], histories: Histories) -> str:
    job, attempt, token = held
    call = Call(attempt, "unknown")
    histories[job].append(call)
    answer = await office.post(f"/jobs/{job}/complete", {"lease_token": token, "result": {"n": 1}})
    if answer.status_code == 200:
        call.heard("replayed" if answer.json()["replayed"] else "completed")
    else:
        assert answer.json()["code"] == "lease_lost"
        call.heard("lost")
    return call.effect


async def test_fifty_claimers_get_every_job_once(kept_office: Office) -> None:
    office, histories = kept_office, defaultdict[str, list[Call]](list)
    ids = await submitted(office, 300)

    async def work(number: int) -> None:
        limit = 1 + number % 4
        while held := await claimed(office, f"w-{number}", limit, histories):
            await asyncio.gather(*(completed(office, one, histories) for one in held))

    await asyncio.gather(*map(work, range(50)))
    assert sorted(histories) == sorted(ids)
    assert {tuple(call.effect for call in calls) for calls in histories.values()} == {("claimed", "completed")}
    assert {calls[0].attempt for calls in histories.values()} == {1}
    assert all(is_linearizable(calls) for calls in histories.values())


async def test_jobs_of_killed_workers_are_done_once_whoever_speaks_late(kept_office: Office) -> None:
    office, histories = kept_office, defaultdict[str, list[Call]](list)
    ids = await submitted(office, 25)
    dead: list[tuple[str, int, str]] = []
    lots = random.Random(7)

    async def work(name: str) -> None:
        while held := await claimed(office, name, 5, histories):
            for one in held:
                if lots.random() < 0.4:
                    dead.append(one)
                else:
                    await completed(office, one, histories)

    for turn in range(3):
        await asyncio.gather(*(work(f"w-{turn}-{number}") for number in range(4)))
        # Some of the killed had sent their report before they were; it arrives while others take their jobs.
        late = lots.sample(dead, min(6, len(dead)))
        await office.advance(61_000)
        reports = [completed(office, one, histories) for one in late]
        await asyncio.gather(office.sweep(Reap()), *reports)
    await asyncio.gather(*(completed(office, one, histories) for one in dead))
    while held := await claimed(office, "last", 5, histories):
        await asyncio.gather(*(completed(office, one, histories) for one in held))
    told = Counter(call.effect for calls in histories.values() for call in calls)
    assert told["completed"] == len([one for one in ids if "completed" in {c.effect for c in histories[one]}])
    assert told["lost"] > 0
    assert all(is_linearizable(calls) for calls in histories.values())
    for job in ids:
        shown = (await office.get(f"/jobs/{job}", include="attempts")).json()
        lost = [one for one in shown["attempts"] if one["outcome"] == "lost"]
        assert {one["error_code"] for one in lost} <= {"stale_worker"}
        assert shown["failure_count"] == len(lost)
        assert shown["status"] in ("completed", "failed")


async def test_a_killed_worker_s_five_jobs_are_claimed_again_and_done_once(kept_office: Office) -> None:
    office, histories = kept_office, defaultdict[str, list[Call]](list)
    ids = await submitted(office, 5)
    assert len(await claimed(office, "killed", 5, histories)) == 5
    await office.advance(59_000)
    assert await office.sweep(Reap()) == 0
    await office.advance(1_001)
    assert await office.sweep(Reap()) == 5
    again = await claimed(office, "next", 5, histories)
    assert sorted((job, attempt) for job, attempt, _ in again) == sorted((job, 2) for job in ids)
    assert {await completed(office, one, histories) for one in again} == {"completed"}
    for job in ids:
        shown = (await office.get(f"/jobs/{job}", include="attempts")).json()
        assert (shown["status"], shown["attempt"], shown["failure_count"]) == ("completed", 2, 1)
        assert [one["error_code"] for one in shown["attempts"]] == ["stale_worker", None]
    assert all(is_linearizable(calls) for calls in histories.values())

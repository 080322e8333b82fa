"""Looking jobs up and forgetting them, as every JobRepository does it: in memory, in SQLite and in PostgreSQL."""

from domain.job import JobStatus
from domain.job_repository import (
    Fail,
    JobFilter,
    Prune,
)
from domain.new_job import DAY_MS
from tests.contract.conftest import Keeper, new_job
from tests.contract.job_calls import DONE, added, claimed, settle


async def test_lists_are_newest_first_and_pages_neither_repeat_nor_skip(keeper: Keeper) -> None:
    ids = await added(keeper, *(new_job() for _ in range(7)))
    seen: list[str] = []
    before = None
    while True:
        page = await keeper.jobs.search(JobFilter(owner_service=["telephony"]), 3, before)
        seen += [job.id for job in page.jobs]
        await added(keeper, new_job())
        if (before := page.next_before) is None:
            break
    assert seen == ids[::-1]


async def test_filters_match_exactly(keeper: Keeper) -> None:
    percent, plain = new_job(owner_ref="50%_off"), new_job("billing", owner_ref="50xxoff")
    await added(keeper, percent, plain)
    found = await keeper.jobs.search(JobFilter(owner_ref=["50%_off"]), 9)
    assert [job.id for job in found.jobs] == [percent.id]
    for wanted, count in (
        (JobFilter(owners=["billing"]), 1),
        (JobFilter(owners=[]), 0),
        (JobFilter(status=[JobStatus.PENDING, JobStatus.FAILED]), 2),
        (JobFilter(status=[JobStatus.FAILED]), 0),
        (JobFilter(owner_service=["billing", "telephony"], task_type=["llm_chat"], model_profile=["qwen"]), 2),
    ):
        assert len((await keeper.jobs.search(wanted, 9)).jobs) == count
    [job] = (await keeper.jobs.search(JobFilter(owners=["billing"]), 9, payloads=["input"])).jobs
    assert job.input == {"user": "hi"}
    [job] = (await keeper.jobs.search(JobFilter(owners=["billing"]), 9)).jobs
    assert job.input == {}


async def test_what_ended_long_ago_goes_and_what_runs_stays(keeper: Keeper) -> None:
    await added(keeper, new_job(), new_job(), new_job())
    done, failed, running = await claimed(keeper, 3)
    await settle(keeper, done, DONE)
    await settle(keeper, failed, Fail("bad_input"))
    await keeper.advance(8 * DAY_MS)
    assert await keeper.jobs.sweep(Prune()) == 1
    assert {job.id for job in (await keeper.jobs.search(JobFilter(), 9)).jobs} == {failed.id, running.id}
    await keeper.advance(23 * DAY_MS)
    assert await keeper.jobs.sweep(Prune()) == 1
    assert [job.id for job in (await keeper.jobs.search(JobFilter(), 9)).jobs] == [running.id]

"""Places in line after a manual retry, in every keeper of jobs: nobody jumps the line, and nobody lengthens it."""

import itertools
from collections.abc import Sequence

from domain.job_repository import Cancel, Changed, Fail, Retry
from domain.new_job import NewBatch
from tests.contract.conftest import Keeper, new_job
from tests.contract.job_calls import added, claimed, settle


async def failed(keeper: Keeper, owner: str, count: int) -> list[str]:
    """Jobs of `owner` that were served and failed, the oldest first."""
    placed = (await keeper.jobs.add([new_job(owner) for _ in range(count)], NewBatch(owner, owner))).placed
    for job in await claimed(keeper, count):
        await settle(keeper, job, Fail("bad_input"))
    return [one.id for one in placed]


async def retried(keeper: Keeper, ids: Sequence[str]) -> list[float]:
    """Their new places, in order."""
    answers = await keeper.jobs.change(Retry("api"), ids)
    return [answer.job.fair_tag for answer in answers if isinstance(answer, Changed) and answer.changed]


async def test_jobs_that_are_retried_at_once_stand_one_behind_the_other(keeper: Keeper) -> None:
    ids = await failed(keeper, "bulk", 10)
    places = await retried(keeper, ids)
    assert [later - earlier for earlier, later in itertools.pairwise(places)] == [1.0] * 9
    await keeper.jobs.add([new_job("other") for _ in range(10)], NewBatch("o", "other"))
    owners = [job.owner_service for job in await claimed(keeper, 10)]
    assert owners.count("other") >= 5


async def test_a_newcomer_does_not_wait_behind_jobs_that_are_retried(keeper: Keeper) -> None:
    await retried(keeper, await failed(keeper, "bulk", 30))
    [newcomer] = await added(keeper, new_job("small"))
    assert newcomer in [job.id for job in await claimed(keeper, 2)]


async def test_a_newcomer_overtakes_nobody_because_what_was_served_is_retried(keeper: Keeper) -> None:
    ids = await failed(keeper, "bulk", 30)
    [waiting] = await added(keeper, new_job("patient"))
    await retried(keeper, ids)
    await keeper.jobs.add([new_job("many") for _ in range(5)], NewBatch("m", "many"))
    assert [job.id for job in await claimed(keeper, 1)] == [waiting]


async def test_what_is_retried_and_cancelled_before_its_turn_leaves_the_line_as_it_was(keeper: Keeper) -> None:
    ids = await failed(keeper, "bulk", 30)
    await keeper.jobs.add([new_job("line") for _ in range(20)], NewBatch("l", "line"))
    await retried(keeper, ids)
    await keeper.jobs.change(Cancel("api"), ids)
    [newcomer] = await added(keeper, new_job("small"))
    assert newcomer in [job.id for job in await claimed(keeper, 2)]

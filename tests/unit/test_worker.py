"""The worker over jobs in memory, under a clock that jumps."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from api.canonical import weighed
from application.job_handlers import JobDone, JobHandler, Tell, failure_of, without_secrets
from application.worker import Worker
from application.worker_options import WorkerOptions
from domain import errors
from domain.job import Job, JobStatus, Outcome
from domain.job_repository import Cancel, Extension, Heartbeat, Reap, Retry, Settled, Settlement
from domain.retry import RetryRules
from tests.contract.conftest import new_job
from tests.fakes.clock import EPOCH
from tests.fakes.jobs import InMemoryJobRepository
from tests.fakes.virtual_time import settle, virtual_time
from tests.fakes.workers import InMemoryWorkers

Run = JobHandler


async def answers(job: Job, tell: Tell) -> JobDone:
    tell({"half": True})
    await asyncio.sleep(1)
    return JobDone({"said": job.input["user"]}, {"completion_tokens": 1})


async def hangs(job: Job, tell: Tell) -> JobDone:
    del job, tell
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody wakes it")


def says(result: Any) -> Run:
    async def handler(job: Job, tell: Tell) -> JobDone:
        return JobDone(result)

    return handler


def raises(error: Exception) -> Run:
    async def handler(job: Job, tell: Tell) -> JobDone:
        raise error

    return handler


class JobsThatMayBeAway(InMemoryJobRepository):
    """Jobs in memory, whose database goes away when a test says so."""

    is_away = False

    async def settle(self, settlement: Settlement) -> Settled:
        """Write the end of an attempt, if it can be written."""
        if self.is_away:
            raise errors.DatabaseUnavailable
        return await super().settle(settlement)

    async def extend(self, beats: Sequence[Heartbeat]) -> Sequence[Extension | errors.IngleError]:
        """Prolong leases, if they can be."""
        if self.is_away:
            raise errors.DatabaseUnavailable
        return await super().extend(beats)


@dataclass
class FewProfiles:
    """Two models, one of them in memory."""

    known: Collection[str] = ("qwen", "other")
    here: Collection[str] = ("other",)

    def runs(self, profile: str) -> bool:
        return profile in self.known

    def loaded(self, profiles: Collection[str]) -> Collection[str]:
        return [profile for profile in profiles if profile in self.here]


@dataclass
class Shop:
    """A worker and what it works on."""

    worker: Worker
    jobs: JobsThatMayBeAway
    workers: InMemoryWorkers

    async def add(self, **fields: Any) -> str:
        [placed] = (await self.jobs.add([new_job(**fields)])).placed
        return placed.id

    def status(self, job_id: str) -> tuple[str, str | None]:
        job = self.jobs.jobs[job_id]
        return job.status.value, job.error_code

    async def reach(self, job_id: str, *statuses: JobStatus) -> None:
        while self.jobs.jobs[job_id].status not in statuses:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.01)


@asynccontextmanager
async def working(handler: Run, **options: Any) -> AsyncIterator[Shop]:
    loop = asyncio.get_running_loop()
    jobs = JobsThatMayBeAway(lambda: int((EPOCH + loop.time()) * 1000))
    workers = InMemoryWorkers()
    mine: dict[str, Any] = {"worker_id": "w/1", "name": "w", "host": "here", "pid": 1, "limit": 2} | options
    worker = Worker(
        jobs, jobs, workers, jobs.bell, {"llm_chat": handler}, FewProfiles(), weighed, WorkerOptions(**mine)
    )
    running = asyncio.create_task(worker.run())
    try:
        yield Shop(worker, jobs, workers)
    finally:
        await worker.drain(0)
        await running


@virtual_time
async def test_a_job_is_run_and_its_result_kept() -> None:
    async with working(answers) as shop:
        job = await shop.add()
        await shop.reach(job, JobStatus.COMPLETED)
        kept = shop.jobs.jobs[job]
        assert (kept.result, kept.usage, kept.progress) == ({"said": "hi"}, {"completion_tokens": 1}, {"half": True})
        assert (kept.attempt, kept.locked_by) == (1, "w/1")


@virtual_time
async def test_no_more_run_at_a_time_than_the_limit_and_a_hint_wakes_at_once() -> None:
    async with working(answers, poll_seconds=1000.0) as shop:
        await asyncio.sleep(5000)
        ids = [await shop.add() for _ in range(5)]
        began = asyncio.get_running_loop().time()
        await settle()
        assert [shop.status(one)[0] for one in ids].count("running") == 2
        for one in ids:
            await shop.reach(one, JobStatus.COMPLETED)
        assert asyncio.get_running_loop().time() - began < 4


@virtual_time
async def test_jobs_of_models_that_are_here_come_first_and_those_of_strangers_never() -> None:
    async with working(hangs, limit=1) as shop:
        shop.worker.stop()
        await settle()
    async with working(answers, limit=1) as shop:
        first, loaded = new_job(profile="qwen", priority=0), new_job(profile="other")
        stranger = new_job(profile="nobody")
        await shop.jobs.add([stranger, first, loaded])
        await settle()
        assert [shop.status(one.id)[0] for one in (first, loaded, stranger)] == ["pending", "running", "pending"]
        await shop.reach(first.id, JobStatus.COMPLETED)
        assert shop.status(stranger.id)[0] == "pending"


@virtual_time
async def test_a_cancel_ends_the_work_within_a_heartbeat() -> None:
    async with working(hangs) as shop:
        job = await shop.add()
        await shop.reach(job, JobStatus.RUNNING)
        await shop.jobs.change(Cancel("owner"), [job])
        began = asyncio.get_running_loop().time()
        await shop.reach(job, JobStatus.CANCELLED)
        assert asyncio.get_running_loop().time() - began <= 1.1


@virtual_time
async def test_a_job_that_hangs_is_ended_at_its_deadline_though_its_lease_was_prolonged() -> None:
    async with working(hangs) as shop:
        job = await shop.add(timeout_ms=300_000, max_attempts=1)
        await asyncio.sleep(290)
        assert await shop.jobs.sweep(Reap()) == 0
        await shop.reach(job, JobStatus.FAILED)
        assert shop.status(job) == ("failed", "timeout")


@virtual_time
async def test_a_job_that_was_taken_away_is_dropped_and_not_reported() -> None:
    async with working(hangs) as shop:
        job = await shop.add()
        await shop.reach(job, JobStatus.RUNNING)
        await shop.jobs.change(Retry("owner", force=True, delay_ms=3_600_000), [job])
        await asyncio.sleep(10)
        assert shop.status(job) == ("pending", None)
        assert [one.outcome for one in shop.jobs.ended[job]] == [Outcome.SUPERSEDED]


@virtual_time
async def test_what_does_not_end_in_time_is_given_back_uncounted() -> None:
    async with working(hangs) as shop:
        job = await shop.add()
        await shop.reach(job, JobStatus.RUNNING)
        await shop.worker.drain(30)
        kept = shop.jobs.jobs[job]
        assert (kept.status, kept.failure_count, kept.snooze_count) == (JobStatus.PENDING, 0, 1)


@virtual_time
async def test_what_ends_in_time_is_reported_though_the_worker_stops() -> None:
    async with working(answers) as shop:
        job = await shop.add()
        await shop.reach(job, JobStatus.RUNNING)
        await shop.worker.drain(30)
        assert shop.status(job)[0] == "completed"


@virtual_time
async def test_a_report_is_written_when_the_database_is_back() -> None:
    async with working(answers) as shop:
        job = await shop.add()
        await shop.reach(job, JobStatus.RUNNING)
        shop.jobs.is_away = True
        await asyncio.sleep(40)
        assert shop.status(job)[0] == "running"
        shop.jobs.is_away = False
        await shop.reach(job, JobStatus.COMPLETED)
        assert shop.jobs.jobs[job].attempt == 1


@virtual_time
async def test_a_result_may_have_so_many_bytes_and_one_more_fails_the_job_for_good() -> None:
    """In UTF-8, quotes included. It would come out the same, so it is not run again."""
    for text, ended in (("é" * 49, ("completed", None)), ("é" * 49 + "x", ("failed", "payload_too_large"))):
        async with working(says(text), result_bytes=100) as shop:
            job = await shop.add(max_attempts=3)
            await shop.reach(job, JobStatus.COMPLETED, JobStatus.FAILED)
            kept = shop.jobs.jobs[job]
            assert (shop.status(job), kept.attempt) == (ended, 1)
            assert (kept.result is None) == (ended[0] == "failed")
            assert "101 bytes" in (kept.error_message or "101 bytes")


@virtual_time
async def test_a_job_that_wants_too_large_results_tried_again_has_its_attempts_and_no_more() -> None:
    async with working(says("x" * 100), result_bytes=100) as shop:
        job = await shop.add(max_attempts=3, retry=RetryRules(retry_codes=("payload_too_large",)))
        await shop.reach(job, JobStatus.FAILED)
        assert (shop.status(job)[1], shop.jobs.jobs[job].attempt) == ("payload_too_large", 3)


@virtual_time
async def test_a_cancelled_job_with_too_large_a_result_is_cancelled() -> None:
    async def goes_on(job: Job, tell: Tell) -> JobDone:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1000)
        return JobDone("x" * 100)

    async with working(goes_on, result_bytes=100) as shop:
        job = await shop.add()
        await shop.reach(job, JobStatus.RUNNING)
        await shop.jobs.change(Cancel("owner"), [job])
        await shop.reach(job, JobStatus.CANCELLED)
        assert shop.jobs.jobs[job].result is None


@pytest.mark.parametrize("result", [float("nan"), {"a": [float("inf")]}, "\ud800", {1, 2}])
@virtual_time
async def test_a_result_that_no_json_can_say_is_an_error_of_ours_and_not_waited_for(result: Any) -> None:
    async with working(says(result)) as shop:
        job = await shop.add(max_attempts=1)
        await settle()
        assert shop.status(job) == ("failed", "internal_error")


ASIDE: dict[str, Any] = {"hinted": False, "poll_seconds": 1000.0}
"""Of a worker that is told of jobs by their ids."""


@virtual_time
async def test_a_job_that_the_worker_is_told_of_is_run_to_its_end_and_only_once() -> None:
    async with working(answers, **ASIDE) as shop:
        await settle()
        job, other = await shop.add(), await shop.add()
        told = await asyncio.gather(*(shop.worker.run_job(job) for _ in range(10)))
        assert [one.job.status for one in told if one] == [JobStatus.COMPLETED]
        assert (shop.jobs.jobs[job].attempt, shop.status(other)[0]) == (1, "pending")


@virtual_time
async def test_what_is_gone_over_or_not_for_this_worker_is_left_alone() -> None:
    async with working(answers, **ASIDE) as shop:
        await settle()
        cancelled, of_another = await shop.add(), await shop.add(task="call_analysis")
        no_model, later = await shop.add(profile="nobody"), await shop.add(delay_ms=60_000)
        await shop.jobs.change(Cancel("owner"), [cancelled])
        for job_id in (cancelled, of_another, no_model, later, "no id at all"):
            assert await shop.worker.run_job(job_id) is None
        assert {job.attempt for job in shop.jobs.jobs.values()} == {0}


@virtual_time
async def test_a_failure_is_told_to_whoever_told_of_the_job() -> None:
    async with working(raises(errors.EmptyAudio()), **ASIDE) as shop:
        await settle()
        settled = await shop.worker.run_job(await shop.add())
        assert settled is not None
        assert (settled.job.status, settled.job.error_code) == (JobStatus.FAILED, "bad_audio")


@virtual_time
async def test_jobs_by_id_keep_the_limit_and_wait_for_room() -> None:
    async with working(answers, **ASIDE) as shop:
        await settle()
        ids = [await shop.add() for _ in range(5)]
        began = asyncio.get_running_loop().time()
        telling = asyncio.gather(*(shop.worker.run_job(one) for one in ids))
        await settle()
        assert [shop.status(one)[0] for one in ids].count("running") == 2
        assert all(await telling)
        assert 3 <= asyncio.get_running_loop().time() - began < 4


@virtual_time
async def test_jobs_that_nobody_tells_of_are_found_at_the_next_look_and_those_behind_them_at_once() -> None:
    async with working(answers, **ASIDE) as shop:
        await settle()
        ids = [await shop.add() for _ in range(5)]
        await asyncio.sleep(790)
        assert {shop.status(one)[0] for one in ids} == {"pending"}
        await asyncio.sleep(430)
        assert {shop.status(one)[0] for one in ids} == {"completed"}


@virtual_time
async def test_a_worker_that_stops_takes_no_job_by_its_id() -> None:
    async with working(hangs, **ASIDE) as shop:
        await settle()
        held = [await shop.add() for _ in range(2)]
        running = [asyncio.create_task(shop.worker.run_job(one)) for one in held]
        waiting = asyncio.create_task(shop.worker.run_job(await shop.add()))
        await settle()
        await shop.worker.drain(1)
        assert await waiting is None
        assert {(await one).job.status for one in running} == {JobStatus.PENDING}  # type: ignore[union-attr]
        assert {job.snooze_count for job in shop.jobs.jobs.values()} == {0, 1}


@virtual_time
async def test_jobs_of_a_dead_process_of_the_same_name_are_free_at_once() -> None:
    async with working(hangs) as shop:
        job = await shop.add()
        await shop.reach(job, JobStatus.RUNNING)
        later = Worker(
            shop.jobs,
            shop.jobs,
            shop.workers,
            shop.jobs.bell,
            {},
            FewProfiles(),
            weighed,
            WorkerOptions("w/2", "w", "here", 2),
        )
        await later.take_over(lambda pid: pid == 1)
        assert shop.status(job)[0] == "running"
        shop.worker.stop()
        await later.take_over(lambda _: False)
        assert shop.jobs.ended[job][0].error_code == "stale_worker"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequest("no", field="x"), "bad_input"),
        (errors.ContextLengthExceeded(9, 8), "context_length"),
        (errors.UnsupportedCapability("no"), "unsupported_task"),
        (errors.ModelNotFound("x"), "model_unavailable"),
        (errors.InsufficientMemory(), "out_of_memory"),
        (errors.Overloaded(), "capacity"),
        (errors.RateLimited(), "rate_limited"),
        (errors.ProviderUnavailable(), "provider_unavailable"),
        (errors.EmptyAudio(), "bad_audio"),
        (errors.DownloadFailed(), "dependency_error"),
        (errors.GenerationFailed(), "internal_error"),
        (KeyError("secret"), "internal_error"),
    ],
)
def test_every_failure_has_a_code_of_the_retry_table(error: Exception, code: str) -> None:
    report = failure_of(error)
    assert report.code == code
    assert "secret" not in (report.message or "")


def test_keys_in_messages_are_blotted_out() -> None:
    assert without_secrets("401: Bearer abc.def and sk-12345678 refused") == "401: *** and *** refused"

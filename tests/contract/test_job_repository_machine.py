"""Any history of calls leaves each database where a small model says it must be.

INGLE_TEST_EXAMPLES sets how many histories there are on each database (of 50 steps each).
"""

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from domain.errors import IngleError
from domain.job_repository import (
    Cancel,
    Changed,
    Claim,
    Complete,
    Extension,
    Fail,
    Heartbeat,
    Reap,
    Release,
    Retry,
    Settlement,
)
from tests.contract.conftest import new_job
from tests.databases import Kept, postgres_jobs, sqlite_jobs

T = TypeVar("T")
EXAMPLES = int(os.environ.get("INGLE_TEST_EXAMPLES", "25"))
LEASE, TIMEOUT, BUDGET = 60_000, 90_000, 3
OVER = ("completed", "failed", "cancelled")
KIND_LEADS_TO: dict[str, set[tuple[Any, Any]]] = {
    "created": {(None, "pending")},
    "claimed": {("pending", "running")},
    "completed": {("running", "completed")},
    "retry_scheduled": {("running", "pending")},
    "failed": {("running", "failed")},
    "snoozed": {("running", "pending")},
    "released": {("running", "pending")},
    "reaped": {("running", "pending"), ("running", "failed")},
    "cancelled": {("pending", "cancelled"), ("running", "cancelled")},
    "cancel_requested": {("running", "running")},
    "retried": {("failed", "pending"), ("cancelled", "pending"), ("running", "pending")},
}


@dataclass
class ModelJob:
    """What a job must be, by the rules in words: who holds it, how often it failed, and the last report."""

    status: str = "pending"
    attempt: int = 0
    failures: int = 0
    token: str | None = None
    asked: bool = False
    lease_until: int = 0
    started: int = 0
    reported: tuple[str | None, str, str | None] = (None, "", None)  # token, verb, hash
    ready: bool = True
    due: int = 0  # as the row says: the wait is random, its range is tested elsewhere

    def leave(self, to: str, *, counted: int = 0, ready: bool = True) -> None:
        self.status, self.token, self.ready, self.failures = to, None, ready, self.failures + counted

    def fail(self, *, counted: int, final: bool, ready: bool = False) -> None:
        if self.asked:
            self.leave("cancelled")
        else:
            self.leave("failed" if final else "pending", counted=counted, ready=ready)

    def report(self, token: str, verb: str, sha: str | None, code: str | None) -> str:
        """The answer: written, replayed or refused."""
        if self.status == "running" and self.token == token:
            self.reported = (token, verb, sha)
            spent = self.failures + 1 >= BUDGET
            if verb == "completed":
                self.leave("completed")
            elif verb == "released" or code == "rate_limited":
                self.fail(counted=0, final=False, ready=verb == "released")
            else:
                self.fail(counted=1, final=code == "bad_input" or spent)
            return "written"
        return "replayed" if self.reported == (token, verb, sha) else "refused"

    def reap(self, now: int) -> None:
        if self.status == "running" and self.lease_until < now:
            late = self.started + TIMEOUT <= now
            self.fail(counted=1, final=self.failures + 1 >= BUDGET, ready=not late)


@dataclass
class Ground:
    """A database, and the event loop that it belongs to."""

    kept: Kept
    loop: asyncio.AbstractEventLoop

    def wait(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)


class Histories(RuleBasedStateMachine):
    """Owners, workers and time at one line of jobs."""

    ground: ClassVar[Ground]

    def __init__(self) -> None:
        super().__init__()
        self.kept, self.wait = self.ground.kept, self.ground.wait
        for table in ("job_attempts", "job_events", "jobs", "queues"):
            self.wait(self.kept.run(f"DELETE FROM {table}"))
        self.now = int(self.wait(self.kept.rows("SELECT at FROM test_clock"))[0][0])
        self.jobs: dict[str, ModelJob] = {}
        self.held: list[tuple[str, str]] = []  # every (job, token) that there ever was
        self.done: dict[str, Any] = {}
        self.attempts: dict[str, int] = {}

    def pick(self, number: int) -> str:
        return list(self.jobs)[number % len(self.jobs)]

    @precondition(lambda self: len(self.jobs) < 3)  # few, so that each lives through a lot
    @rule()
    def create(self) -> None:
        [placed] = self.wait(self.kept.jobs.add([new_job(timeout_ms=TIMEOUT)])).placed
        self.jobs[placed.id] = ModelJob()

    @precondition(lambda self: self.jobs)
    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        for model in self.jobs.values():
            model.ready = model.ready or model.due <= self.now  # every claim promotes first
        ready = [model for model in self.jobs.values() if model.status == "pending" and model.ready]
        taken = self.wait(self.kept.jobs.claim(Claim("w", limit, ["llm_chat"], ["qwen"])))
        assert len(taken) == min(limit, len(ready))
        for job in taken:
            model = self.jobs[job.id]
            assert model.status == "pending" and model.ready and job.lease_token is not None
            assert job.attempt == model.attempt + 1
            model.status, model.attempt, model.token = "running", job.attempt, job.lease_token
            model.started, model.lease_until = self.now, self.now + LEASE
            self.held.append((job.id, job.lease_token))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99))
    def beat(self, which: int) -> None:
        job_id, token = self.held[which % len(self.held)]
        [answer] = self.wait(self.kept.jobs.extend([Heartbeat(job_id, token)]))
        model = self.jobs[job_id]
        holds = model.status == "running" and model.token == token
        assert isinstance(answer, Extension) == holds
        if isinstance(answer, Extension):
            model.lease_until = min(self.now + LEASE, model.started + TIMEOUT)
            assert answer.lease_expires_at == model.lease_until

    @precondition(lambda self: self.held)
    @rule(
        which=st.integers(0, 99),
        report=st.sampled_from(
            [
                Complete(1, "1"),
                Complete(2, "2"),
                Fail("timeout"),
                Fail("bad_input"),
                Fail("rate_limited"),
                Release(),
            ]
        ),
    )
    def report(self, which: int, report: Complete | Fail | Release) -> None:
        """From the holder, or from somebody who was it once, for the first time or again."""
        job_id, token = self.held[which % len(self.held)]
        verb = {Complete: "completed", Fail: "failed", Release: "released"}[type(report)]
        sha = report.result_sha256 if isinstance(report, Complete) else None
        expected = self.jobs[job_id].report(token, verb, sha, report.code if isinstance(report, Fail) else None)
        try:
            settled = self.wait(self.kept.jobs.settle(Settlement(job_id, report, token)))
        except IngleError:
            answer = "refused"
        else:
            answer = "replayed" if settled.replayed else "written"
        assert answer == expected

    @precondition(lambda self: self.jobs)
    @rule(which=st.integers(0, 99))
    def cancel(self, which: int) -> None:
        job_id = self.pick(which)
        model = self.jobs[job_id]
        [answer] = self.wait(self.kept.jobs.change(Cancel("me"), [job_id]))
        assert isinstance(answer, Changed) == (model.status not in ("completed", "failed"))
        if model.status == "pending":
            model.leave("cancelled")
        elif model.status == "running":
            model.asked = True

    @precondition(lambda self: self.jobs)
    @rule(which=st.integers(0, 99), force=st.booleans())
    def retry(self, which: int, force: bool) -> None:
        job_id = self.pick(which)
        model = self.jobs[job_id]
        [answer] = self.wait(self.kept.jobs.change(Retry("me", force=force), [job_id]))
        may = model.status in ("failed", "cancelled") or (
            model.status == "running" and (force or model.lease_until < self.now)
        )
        assert (isinstance(answer, Changed) and answer.changed) == may
        if may:
            model.leave("pending")
            model.failures, model.asked = 0, False

    @rule(seconds=st.sampled_from([1, 61, 3600]))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds * 1000
        self.wait(self.kept.advance(seconds * 1000))

    @rule()
    def reap(self) -> None:
        self.wait(self.kept.jobs.sweep(Reap()))
        for model in self.jobs.values():
            model.reap(self.now)

    @invariant()
    def the_rows_are_what_the_model_says(self) -> None:
        if not self.jobs:
            return
        rows = self.wait(
            self.kept.rows(
                "SELECT id, status, attempt, failure_count, lease_token, cancel_requested_at, result, ready, "
                "available_at FROM jobs"
            )
        )
        assert len(rows) == len(self.jobs)
        for job_id, status, attempt, failures, token, asked, result, ready, due in rows:
            model = self.jobs[job_id]
            model.due = due
            assert model.status != "pending" or bool(ready) == model.ready
            assert (status, attempt, failures, token) == (model.status, model.attempt, model.failures, model.token)
            assert model.status != "running" or (asked is not None) == model.asked
            assert attempt >= self.attempts.get(job_id, 0)
            assert (result is not None) == (status == "completed")
            assert self.done.setdefault(job_id, result) == result if status == "completed" else True
            self.attempts[job_id] = attempt

    def teardown(self) -> None:
        """The events, replayed, give the rows."""
        events = self.wait(
            self.kept.rows(
                "SELECT j.id, e.kind, e.from_status, e.to_status, e.attempt FROM job_events e "
                "JOIN jobs j ON j.seq=e.job_seq ORDER BY e.seq"
            )
        )
        told: dict[str, tuple[Any, Any]] = {}
        for job_id, kind, since, to, attempt in events:
            assert (since, to) in KIND_LEADS_TO[kind]
            assert told.get(job_id, (None, 0))[0] == since
            told[job_id] = (to, attempt)
        assert told == {job_id: (model.status, model.attempt) for job_id, model in self.jobs.items()}


def run_histories(ground: Ground) -> None:
    class OnThisGround(Histories):
        pass

    OnThisGround.ground = ground
    run_state_machine_as_test(
        OnThisGround,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(600)
def test_any_history_on_sqlite_is_what_the_model_says(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    opened = sqlite_jobs(tmp_path)
    ground = Ground(loop.run_until_complete(opened.__aenter__()), loop)
    try:
        run_histories(ground)
        assert ground.kept.jobs is not None
    finally:
        loop.run_until_complete(opened.__aexit__(None, None, None))
        loop.close()


@pytest.mark.postgres
@pytest.mark.timeout(600)
def test_any_history_on_postgres_is_what_the_model_says(postgres_schema: str) -> None:
    loop = asyncio.new_event_loop()
    opened = postgres_jobs(postgres_schema, fresh=False, pool_size=2)
    ground = Ground(loop.run_until_complete(opened.__aenter__()), loop)
    try:
        ground.wait(ground.kept.empty())
        run_histories(ground)
    finally:
        loop.run_until_complete(opened.__aexit__(None, None, None))
        loop.close()

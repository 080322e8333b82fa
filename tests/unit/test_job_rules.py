"""The pure rules of jobs: what may be asked, when a failure comes back, whose turn it is."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.claim_order import MAX_JOBS_IN_A_ROW, MAX_SECONDS_IN_A_ROW, Streak, visiting_order
from domain.errors import InvalidRequest
from domain.fairness import chat_cost, first_tag, recording_cost, step_of, transcription_cost
from domain.histogram import bucket_of, histogram, quantile, value_of
from domain.job import Job, JobStatus, Phase
from domain.job_limits import OwnerRules, QueueRules
from domain.new_job import DAY_MS, NewJob
from domain.retry import CAP_MS, KNOWN_CODES, LONG, ONCE, SHORT, SNOOZES, TERMINAL, RetryPolicy, RetryRules

PAIRS = [("a", "x"), ("a", "y"), ("b", "x"), ("c", "x")]


def new_job(**fields: Any) -> NewJob:
    return NewJob(**{"id": "i", "owner_service": "o", "task_type": "t", "model_profile": "p", "input": {}} | fields)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("owner_service", ""),
        ("owner_service", "-a"),
        ("task_type", "a b"),
        ("model_profile", "x" * 129),
        ("owner_ref", "x" * 257),
        ("owner_ref", "a\nb"),
        ("priority", 11),
        ("delay_ms", 30 * DAY_MS + 1),
        ("expires_ms", 999),
        ("max_attempts", 0),
        ("timeout_ms", DAY_MS + 1),
        ("cost", float("nan")),
        ("cost", 0),
        ("dedupe_key", "ü"),
        ("dedupe_key", ""),
        ("callback_url", "x" * 2049),
        ("metadata", {"k": "v" * 513}),
        ("metadata", {str(n): "" for n in range(17)}),
    ],
)
def test_what_may_not_be_asked_is_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest):
        new_job(**{field: value})


@pytest.mark.parametrize("name", ["a", "qwen2.5-coder:0.5b", "team/model@1", "x" * 128])
def test_names_in_use_are_names(name: str) -> None:
    assert new_job(owner_service=name, task_type=name, model_profile=name).owner_service == name


def test_a_job_is_due_after_its_delay_or_at_its_time_but_not_in_the_past() -> None:
    assert new_job().due_at(1000) == 1000
    assert new_job(delay_ms=5).due_at(1000) == 1005
    assert new_job(available_at=2000).due_at(1000) == 2000
    assert new_job(available_at=10).due_at(1000) == 1000
    with pytest.raises(InvalidRequest):
        new_job(available_at=1001 + 30 * DAY_MS).due_at(1000)
    with pytest.raises(InvalidRequest):
        new_job(available_at=10, delay_ms=5)


@pytest.mark.parametrize(
    "rules",
    [lambda: QueueRules("p", lease_ms=1), lambda: OwnerRules("o", weight=0), lambda: RetryRules(base_seconds=0)],
)
def test_rules_have_ranges(rules: Any) -> None:
    with pytest.raises(InvalidRequest):
        rules()
    with pytest.raises(InvalidRequest):
        RetryRules(retry_codes=("a",), terminal_codes=("a",))


def test_every_known_code_is_in_one_class() -> None:
    classes = [SHORT, LONG, SNOOZES.keys(), ONCE, TERMINAL]
    assert sum(map(len, classes)) == len(KNOWN_CODES)


@given(code=st.sampled_from(sorted(KNOWN_CODES | {"weird"})), n=st.integers(1, 200), jitter=st.floats(0.5, 1))
def test_a_wait_doubles_up_to_its_cap(code: str, n: int, jitter: float) -> None:
    verdict = RetryPolicy().verdict(code)
    if not verdict.terminal:
        grown = min(verdict.cap_ms, verdict.base_ms * 2 ** (n - 1))
        assert grown // 2 <= verdict.delay_ms(n, jitter) <= grown <= CAP_MS
        assert verdict.delay_ms(n, jitter, CAP_MS) == CAP_MS
    else:
        assert code in TERMINAL


def test_the_workers_opinion_the_jobs_rules_the_queues_the_table() -> None:
    job, queue = RetryRules(1, None, ("bad_input",), ("timeout",)), RetryRules(9, 90, ("auth_error",), ("bad_input",))
    policy = RetryPolicy.of(job, None, queue)
    assert policy.verdict("timeout").terminal
    assert not policy.verdict("timeout", retryable=True).terminal
    assert not policy.verdict("bad_input").terminal
    assert policy.verdict("bad_input", retryable=False).terminal
    assert policy.verdict("cancelled", retryable=True).terminal
    assert (policy.verdict("auth_error").base_ms, policy.verdict("auth_error").cap_ms) == (1000, 90_000)
    assert policy.verdict("out_of_memory").terminal is False
    assert policy.verdict("out_of_memory", earlier_codes=["out_of_memory"]).terminal


def test_a_tag_is_behind_what_is_served_and_behind_the_owners_own() -> None:
    assert first_tag(None, None, None, 1) == 0
    assert first_tag(7, None, None, 1) == 7
    assert first_tag(7, 9, 3, 1) == 9
    assert first_tag(7, None, 8, step_of(2, 4)) == 8.5
    assert (chat_cost(0, 0), chat_cost(2048, 512), transcription_cost(30), transcription_cost(600)) == (1, 2, 1, 10)
    assert (recording_cost(1000), recording_cost(60 * 60 * 16_000)) == (1, 60)


def test_pairs_are_visited_in_turn_and_loaded_ones_first() -> None:
    fresh = Streak()
    assert visiting_order(PAIRS, 1, (), fresh, 0) == [*PAIRS[1:], PAIRS[0]]
    assert visiting_order(PAIRS, 0, {"b"}, fresh, 0)[0] == ("b", "x")
    assert visiting_order([], 5, {"b"}, fresh, 0) == []


def test_loaded_profiles_do_not_starve_the_others() -> None:
    streak = Streak()
    for _ in range(MAX_JOBS_IN_A_ROW):
        assert not streak.over(0)
        streak.note(["b"], {"b"}, {"a"}, 0)
    assert streak.over(0)
    assert visiting_order(PAIRS, 0, {"b"}, streak, 0)[-1] == ("b", "x")
    streak.note(["a"], {"b"}, {"a"}, 0)
    assert not streak.over(0)
    streak.note(["b"], {"b"}, {"a"}, 0)
    assert streak.over(MAX_SECONDS_IN_A_ROW)
    streak.note(["b"], {"b"}, (), 0)
    assert not streak.over(MAX_SECONDS_IN_A_ROW)


@given(st.lists(st.integers(0, 10_000_000), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_within_a_bucket_of_the_true_one(times: list[int], share: float) -> None:
    found = quantile(histogram(times), share)
    below = sorted(times)[max(1, math.ceil(share * len(times))) - 1]
    assert found is not None
    assert below <= found + 1 and found <= below * 1.25 + 2
    assert quantile({}, share) is None
    assert value_of(bucket_of(below)) >= below - 1


def test_a_phase_is_told_by_the_row() -> None:
    def phase(status: JobStatus, *, held: bool = False, **fields: Any) -> Phase | None:
        return Job(1, "i", "o", "t", "p", status, 0, 0.0, 3, 1000, 0, **fields).phase(10, held=held)

    pending, running = JobStatus.PENDING, JobStatus.RUNNING
    assert phase(pending) is Phase.READY
    assert phase(pending, held=True) is Phase.HELD
    assert phase(pending, ready=False) is Phase.SCHEDULED
    assert phase(pending, ready=False, attempt=1) is Phase.RETRY_WAIT
    assert phase(running, lease_expires_at=10) is Phase.LEASED
    assert phase(running, lease_expires_at=9) is Phase.LEASE_EXPIRED
    assert phase(running, lease_expires_at=10, cancel_requested_at=1) is Phase.CANCELLING
    assert phase(JobStatus.COMPLETED) is None

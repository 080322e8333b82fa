"""When calls are let through, and when they are not."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from application.circuit_breaker import Admission, BreakerPolicy, Circuit, CircuitBreaker, RetryBudget

POLICY = BreakerPolicy(failures=3, window=10.0, cooldown=30.0)


@dataclass
class Server:
    """A breaker, and the clock that goes with it."""

    breaker: CircuitBreaker = field(default_factory=lambda: CircuitBreaker(POLICY))
    now: float = 0.0

    def call(self) -> Admission:
        admission = self.breaker.admit(self.now)
        assert admission is not None
        return admission

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            self.breaker.failed(self.call(), self.now)

    def state(self) -> Circuit:
        return self.breaker.state(self.now)


@pytest.fixture
def server() -> Server:
    return Server()


def test_failures_in_a_row_open_the_circuit(server: Server) -> None:
    server.fail(2)
    assert server.state() is Circuit.CLOSED
    server.fail()
    assert server.state() is Circuit.OPEN
    assert server.breaker.admit(server.now) is None
    assert server.breaker.retry_after(server.now) == POLICY.cooldown


def test_a_success_between_failures_keeps_it_closed(server: Server) -> None:
    server.fail(2)
    server.breaker.succeeded(server.call())
    server.fail(2)
    assert server.state() is Circuit.CLOSED


def test_failures_far_apart_keep_it_closed(server: Server) -> None:
    for _ in range(20):
        server.fail()
        server.now += POLICY.window
    assert server.state() is Circuit.CLOSED


def test_after_the_cooldown_one_call_tries_and_a_success_closes(server: Server) -> None:
    server.fail(3)
    server.now += POLICY.cooldown
    assert server.state() is Circuit.HALF_OPEN
    trial = server.call()
    assert trial.is_trial
    assert server.breaker.admit(server.now) is None
    server.breaker.succeeded(trial)
    assert server.state() is Circuit.CLOSED


def test_a_failed_trial_opens_it_for_another_cooldown(server: Server) -> None:
    server.fail(3)
    server.now += POLICY.cooldown
    server.fail()
    assert server.state() is Circuit.OPEN
    assert server.breaker.retry_after(server.now) == POLICY.cooldown


def test_a_trial_whose_caller_left_makes_room_for_another(server: Server) -> None:
    server.fail(3)
    server.now += POLICY.cooldown
    server.breaker.released(server.call())
    assert server.call().is_trial


def test_calls_from_before_neither_take_the_trial_s_place_nor_prolong_the_pause(server: Server) -> None:
    early = [server.call() for _ in range(3)]
    server.fail(3)
    server.breaker.failed(early[0], server.now + 20)
    assert server.breaker.retry_after(server.now) == POLICY.cooldown
    server.now += POLICY.cooldown
    server.call()
    server.breaker.released(early[1])
    server.breaker.failed(early[2], server.now)
    assert server.state() is Circuit.HALF_OPEN
    assert server.breaker.admit(server.now) is None


class Calls(RuleBasedStateMachine):
    """Calls that begin and end in any order while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = CircuitBreaker(POLICY)
        self.now = 0.0
        self.under_way: list[Admission] = []
        self.failures_since_success = 0

    @rule(seconds=st.floats(0.0, 40.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def begin(self) -> None:
        before = self.breaker.state(self.now)
        admission = self.breaker.admit(self.now)
        if admission is None:
            assert before is not Circuit.CLOSED
        else:
            assert admission.is_trial is (before is Circuit.HALF_OPEN)
            self.under_way.append(admission)

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 1 << 16), how=st.sampled_from(["succeeded", "failed", "released"]))
    def end(self, which: int, how: str) -> None:
        admission = self.under_way.pop(which % len(self.under_way))
        if how == "succeeded":
            self.breaker.succeeded(admission)
            self.failures_since_success = 0
            assert self.breaker.state(self.now) is Circuit.CLOSED
        elif how == "failed":
            self.breaker.failed(admission, self.now)
            self.failures_since_success += 1
        else:
            before = self.breaker.state(self.now)
            self.breaker.released(admission)
            assert self.breaker.state(self.now) is before

    @invariant()
    def at_most_one_trial_is_under_way(self) -> None:
        if self.breaker.state(self.now) is not Circuit.CLOSED:
            assert sum(admission.is_trial for admission in self.under_way) <= 1

    @invariant()
    def only_enough_failures_open_it(self) -> None:
        if self.breaker.state(self.now) is not Circuit.CLOSED:
            assert self.failures_since_success >= POLICY.failures

    @invariant()
    def it_never_stays_open_longer_than_the_cooldown(self) -> None:
        assert 0.0 <= self.breaker.retry_after(self.now) <= POLICY.cooldown


TestCalls = Calls.TestCase


@given(st.lists(st.integers(0, 3), max_size=300))
def test_retries_stay_within_their_share(wishes: list[int]) -> None:
    budget = RetryBudget(share=0.1, reserve=5.0)
    retries = 0
    for wish in wishes:
        budget.called()
        retries += sum(budget.take() for _ in range(wish))
    assert retries <= 5 + 0.1 * len(wishes) + 1e-6


def test_an_idle_time_saves_no_more_than_the_reserve() -> None:
    budget = RetryBudget(share=0.5, reserve=2.0)
    for _ in range(100):
        budget.called()
    assert [budget.take() for _ in range(3)] == [True, True, False]

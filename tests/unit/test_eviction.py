"""Who leaves memory, and what has to happen before a load."""

import math

from hypothesis import given
from hypothesis import strategies as st

from application.device_arbiter import (
    DeviceArbiter,
    Evict,
    GiveUp,
    Load,
    NeverFits,
    Sharing,
    Suspend,
    Tenant,
    Wait,
    Wish,
)
from domain.eviction import Holding, victims_for
from domain.memory import MemoryBudget
from domain.model import Task

holdings = st.lists(
    st.builds(
        Holding,
        model_id=st.integers(0, 10**6).map(str),
        bytes=st.integers(0, 50),
        keep_alive=st.sampled_from([0.0, 60.0, 300.0, math.inf]),
        last_used_at=st.integers(0, 100).map(float),
        in_use=st.booleans(),
        pinned=st.booleans(),
    ),
    max_size=6,
    unique_by=lambda holding: holding.model_id,
)


def held(model_id: str, size: int = 1, **more: object) -> Holding:
    return Holding(model_id, size, **{"keep_alive": 300.0, "last_used_at": 0.0, **more})  # type: ignore[arg-type]


def room(size: int, ceiling: int = 100) -> MemoryBudget:
    """A device with that much room now, and that much if everybody left."""
    return MemoryBudget("cpu", ceiling, ceiling - size, size)


def text(model_id: str, size: int = 1, **more: object) -> Tenant:
    return Tenant(Task.TEXT, held(model_id, size, **more))


def speech(model_id: str, size: int = 1, **more: object) -> Tenant:
    return Tenant(Task.SPEECH, held(model_id, size, **more))


# -- victims --------------------------------------------------------------------------------------------


def test_nobody_leaves_when_nothing_is_needed() -> None:
    assert victims_for(0, [held("a")]) == []
    assert victims_for(-5, []) == []


def test_the_shortest_keep_alive_leaves_first_and_then_the_least_recently_used() -> None:
    there = [held("late", last_used_at=9.0), held("early", last_used_at=1.0), held("brief", keep_alive=5.0)]
    assert victims_for(1, there) == ["brief"]
    assert victims_for(2, there) == ["brief", "early"]
    assert victims_for(1, [held("for ever", keep_alive=math.inf), held("late", last_used_at=9.0)]) == ["late"]


def test_models_in_use_and_pinned_ones_never_leave() -> None:
    assert victims_for(1, [held("busy", in_use=True), held("pinned", pinned=True)]) is None


def test_a_small_model_stays_when_a_large_one_has_to_leave_anyway() -> None:
    assert victims_for(5, [held("small", 1, last_used_at=1.0), held("large", 5, last_used_at=2.0)]) == ["large"]


@given(needed=st.integers(-5, 200), there=holdings)
def test_victims_are_idle_give_back_enough_and_none_is_needless(needed: int, there: list[Holding]) -> None:
    by_id = {holding.model_id: holding for holding in there}
    movable = sum(holding.bytes for holding in there if not holding.in_use and not holding.pinned)
    victims = victims_for(needed, there)
    if victims is None:
        assert movable < needed
        return
    gone = [by_id[model_id] for model_id in victims]
    assert not any(holding.in_use or holding.pinned for holding in gone)
    freed = sum(holding.bytes for holding in gone)
    assert freed >= needed
    assert all(freed - holding.bytes < needed for holding in gone)


# -- what has to happen ---------------------------------------------------------------------------------


def test_what_fits_is_loaded_beside_the_other_group() -> None:
    assert DeviceArbiter().decide(Wish(Task.SPEECH, 2), room(2), [text("t", in_use=True)]) == Load()


def test_idle_models_of_either_group_leave_for_what_does_not_fit() -> None:
    assert DeviceArbiter().decide(Wish(Task.SPEECH, 2), room(1), [text("t"), speech("s", 3)]) == Evict(["t"])


def test_busy_models_in_the_way_take_no_newcomers_until_they_have_left_or_the_hold_is_over() -> None:
    there = [text("t", in_use=True), text("pinned", 9, pinned=True)]
    assert DeviceArbiter().decide(Wish(Task.SPEECH, 1, waited=29.0), room(0), there) == Wait(["t"])
    assert DeviceArbiter().decide(Wish(Task.SPEECH, 1, waited=30.0), room(0), there) == GiveUp(["t"])


def test_nobody_leaves_before_everybody_who_has_to_can() -> None:
    there = [text("idle"), text("busy", in_use=True)]
    assert DeviceArbiter().decide(Wish(Task.TEXT, 2), room(0), there) == Wait(["busy"])


def test_what_is_being_given_back_is_waited_for() -> None:
    there = [Tenant(Task.TEXT, held("going"), leaving=True), text("idle", 5)]
    assert DeviceArbiter().decide(Wish(Task.TEXT, 2), room(0), there) == Wait()


def test_a_model_larger_than_all_that_can_leave_never_fits() -> None:
    there = [text("busy", 2, in_use=True), text("pinned", 5, pinned=True)]
    assert DeviceArbiter().decide(Wish(Task.TEXT, 4), room(1, ceiling=8), there) == NeverFits(["pinned"])
    assert DeviceArbiter().decide(Wish(Task.TEXT, 4), room(1), [text("pinned", pinned=True)]) == NeverFits(["pinned"])


def test_what_is_held_beyond_what_was_seen_to_be_taken_is_found_out_by_unloading() -> None:
    there = [text("grown", 1), text("grown too", 1)]
    assert DeviceArbiter().decide(Wish(Task.TEXT, 50), room(10), there) == Evict(["grown", "grown too"])
    assert DeviceArbiter().decide(Wish(Task.TEXT, 50), room(10), []) == NeverFits([])


def test_groups_that_exclude_each_other_swap_even_where_both_fit() -> None:
    arbiter = DeviceArbiter(Sharing.EXCLUSIVE)
    assert arbiter.decide(Wish(Task.SPEECH, 1), room(9), [text("t"), speech("s")]) == Evict(["t"])
    assert arbiter.decide(Wish(Task.SPEECH, 1), room(9), [text("t", in_use=True)]) == Wait(["t"])
    assert arbiter.decide(Wish(Task.EMBEDDING, 1), room(9), [text("t", in_use=True)]) == Load()
    assert arbiter.decide(Wish(Task.SPEECH, 1), room(9), [text("t", pinned=True)]) == NeverFits(["t"])
    assert arbiter.decide(Wish(Task.SPEECH, 3), room(2), [text("t"), speech("s", 1)]) == Evict(["t"])


def test_models_that_take_nothing_are_in_nobodys_way() -> None:
    arbiter = DeviceArbiter(Sharing.EXCLUSIVE)
    assert arbiter.decide(Wish(Task.SPEECH, 0), room(9), [text("t", 0, in_use=True)]) == Load()


def test_groups_that_share_come_what_may_do_not_stop_each_other() -> None:
    arbiter = DeviceArbiter(Sharing.SHARED)
    there = [text("t", in_use=True), speech("s", in_use=True)]
    assert arbiter.decide(Wish(Task.SPEECH, 2), room(0), there) == Wait(["s"])


def at_work(model_id: str, task: Task = Task.TEXT, there_for: float = 99.0) -> Tenant:
    return Tenant(task, held(model_id, in_use=True), held=there_for, can_pause=task is not Task.EMBEDDING)


def test_the_other_group_is_suspended_at_the_end_of_the_hold_and_the_own_one_is_not() -> None:
    arbiter, there = DeviceArbiter(Sharing.EXCLUSIVE, max_hold=30.0), [at_work("t"), at_work("u")]
    assert arbiter.decide(Wish(Task.SPEECH, 1, waited=29.9), room(9), there) == Wait(["t", "u"])
    assert arbiter.decide(Wish(Task.SPEECH, 1, waited=30.0), room(9), there) == Suspend(["t", "u"])
    assert arbiter.decide(Wish(Task.TEXT, 1, waited=30.0), room(0), there[:1]) == GiveUp(["t"])
    assert DeviceArbiter().decide(Wish(Task.SPEECH, 1, waited=30.0), room(0), there[:1]) == Suspend(["t"])
    assert DeviceArbiter().decide(Wish(Task.SPEECH, 1, waited=30.0), room(1), there) == Load()
    assert DeviceArbiter(max_hold=0.0).decide(Wish(Task.SPEECH, 1), room(0), there[:1]) == GiveUp(["t"])


def test_groups_that_share_come_what_may_are_never_suspended() -> None:
    arbiter = DeviceArbiter(Sharing.SHARED)
    assert arbiter.decide(Wish(Task.SPEECH, 1, waited=99.0), room(0), [at_work("t")]) == GiveUp(["t"])


def test_who_was_loaded_meanwhile_has_a_hold_of_its_own() -> None:
    arbiter, wish = DeviceArbiter(Sharing.EXCLUSIVE), Wish(Task.TEXT, 1, waited=40.0)
    assert arbiter.decide(wish, room(9), [at_work("s", Task.SPEECH, 29.0)]) == Wait(["s"])
    assert arbiter.decide(wish, room(9), [at_work("s", Task.SPEECH, -math.inf)]) == Wait(["s"])
    assert arbiter.decide(wish, room(9), [at_work("s", Task.SPEECH, 30.0)]) == Suspend(["s"])


def test_models_that_cannot_be_suspended_end_the_wait_for_newcomers_and_not_for_who_was_suspended() -> None:
    arbiter, there = DeviceArbiter(Sharing.EXCLUSIVE), [at_work("v", Task.EMBEDDING), at_work("t")]
    assert arbiter.decide(Wish(Task.SPEECH, 1, waited=31.0), room(9), there) == GiveUp(["v", "t"])
    assert arbiter.decide(Wish(Task.SPEECH, 1, waited=31.0, returns=True), room(9), there) == Wait(["v", "t"])
    going = [Tenant(Task.TEXT, held("t"), leaving=True)]
    assert arbiter.decide(Wish(Task.SPEECH, 1, waited=31.0, returns=True), room(9), going) == Wait()


def test_who_was_suspended_gets_its_place_back_from_its_own_group_too() -> None:
    wish = Wish(Task.TEXT, 1, waited=31.0, returns=True)
    assert DeviceArbiter().decide(wish, room(0), [at_work("u")]) == Suspend(["u"])


@given(
    size=st.integers(1, 100),
    now=st.integers(0, 100),
    there=holdings,
    sharing=st.sampled_from(Sharing),
    tasks=st.lists(st.sampled_from(Task), min_size=6, max_size=6),
    waited=st.sampled_from([0.0, 31.0]),
)
def test_a_decision_always_leads_on(
    size: int, now: int, there: list[Holding], sharing: Sharing, tasks: list[Task], waited: float
) -> None:
    tenants = [Tenant(task, holding) for task, holding in zip(tasks, there, strict=False)]
    decision = DeviceArbiter(sharing).decide(Wish(Task.TEXT, size, waited), room(now), tenants)
    by_id = {holding.model_id: holding for holding in there}
    if isinstance(decision, Load):
        assert size <= now
    elif isinstance(decision, Evict):
        gone = [by_id[model_id] for model_id in decision.model_ids]
        assert gone, "it would be asked for ever"
        assert not any(holding.in_use or holding.pinned for holding in gone)
    elif isinstance(decision, Wait):
        assert waited < 30.0
        assert all(by_id[model_id].in_use for model_id in decision.held_back)
    elif isinstance(decision, GiveUp):
        assert decision.blockers
        assert all(by_id[model_id].in_use for model_id in decision.blockers)

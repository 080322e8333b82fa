"""What is measured in turns: who goes when, and what comes of it."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.endpoint import Endpoint
from benchmarks.figures import Decoding, Figures
from benchmarks.plan import Plan, Question, What
from benchmarks.prompts import Prompts
from benchmarks.text import FULL, QUICK, take_turns
from benchmarks.turns import (
    BARE,
    OURS,
    Spread,
    Target,
    quotient,
    ratios,
    rotated,
    schedule,
    spread_of,
    values,
    with_floor,
)
from benchmarks.unserved import GENERATE, GENERATE_BATCH, Package
from benchmarks.worker import Worker

PEER = "peer"


@dataclass
class Fixed:
    """A target whose figures are known, and which counts how often it was asked."""

    name: str
    quick: bool = False
    kinds: frozenset[What] = frozenset(What)
    rate: float = 1.0
    asked: int = 0

    def takes(self, question: Question) -> bool:
        return question.what in self.kinds

    def measure(self, question: Question) -> Figures:
        self.asked += 1
        if question.what is What.DECODING:
            decoding = {question.streams: Decoding(question.streams, self.rate, None)}
            return Figures(decoding=decoding, floor_seconds=0.5 if self.name == BARE else None)
        return Figures(prompt=self.rate) if question.what is What.PROMPT else Figures()


def everybody() -> list[Fixed]:
    """As in a run with one peer and one package."""
    return [
        Fixed(OURS, quick=True),
        Fixed(PEER, kinds=frozenset(What) - {What.HEALTH}),
        Fixed("package", kinds=frozenset({What.DECODING, What.PROMPT})),
        Fixed(BARE, quick=True, kinds=frozenset({What.DECODING})),
    ]


def prompt(value: float) -> Figures:
    return Figures(prompt=value)


def read(figures: Figures) -> float | None:
    return figures.prompt


@pytest.mark.parametrize("plan", [FULL, QUICK])
def test_ours_and_the_bare_loop_take_part_in_every_turn_of_what_they_can(plan: Plan) -> None:
    for _, question, order in schedule(plan, everybody()):
        names = [target.name for target in order]
        assert OURS in names
        assert (BARE in names) == (question.what is What.DECODING)


def test_short_questions_are_put_to_all_in_every_turn_and_long_ones_to_each_slow_target_once_a_round() -> None:
    times = Counter[tuple[What, int, str]]()
    for number, question, order in schedule(FULL, everybody()):
        assert 1 <= number <= FULL.rounds
        times.update((question.what, question.streams, target.name) for target in order)
    everywhere, once = FULL.rounds * FULL.turns, FULL.rounds
    for name in (OURS, PEER, "package"):
        assert times[What.DECODING, 1, name] == times[What.PROMPT, 0, name] == everywhere
    assert times[What.DECODING, 8, OURS] == times[What.DECODING, 8, BARE] == everywhere
    assert times[What.DECODING, 8, PEER] == times[What.DECODING, 8, "package"] == once
    assert times[What.BUSY, 0, PEER] == times[What.HEALTH, 0, OURS] == once


def test_more_slow_targets_than_turns_all_get_theirs() -> None:
    plan = Plan(rounds=1, streams=(8,), questions=1, turns=2)
    targets = [Fixed(OURS, quick=True), *(Fixed(f"peer {number}") for number in range(5))]
    asked = [
        target.name
        for _, question, order in schedule(plan, targets)
        if question.what is What.DECODING
        for target in order
    ]
    assert Counter(asked) == {OURS: 2, **{f"peer {number}": 1 for number in range(5)}}


def test_whoever_meets_again_goes_in_another_order() -> None:
    firsts: dict[tuple[Question, frozenset[str]], Counter[str]] = {}
    for _, question, order in schedule(FULL, everybody()):
        company = frozenset(target.name for target in order)
        firsts.setdefault((question, company), Counter(dict.fromkeys(company, 0)))[order[0].name] += 1
    for times in firsts.values():
        assert max(times.values()) - min(times.values()) <= 1


@given(st.lists(st.integers(), min_size=1, unique=True), st.integers(0, 1000))
def test_a_rotation_keeps_everybody_and_who_follows_whom(items: list[int], by: int) -> None:
    turned = rotated(items, by)
    assert turned[0] == items[by % len(items)]
    assert rotated(turned, -by) == items


def test_a_ratio_pairs_what_was_measured_in_the_same_turn() -> None:
    # In the second turn the machine was half as quick for both, and the first was cut short.
    turns = [
        {OURS: prompt(7.0)},
        {OURS: prompt(50.0), PEER: prompt(25.0)},
        {OURS: prompt(100.0), PEER: prompt(50.0)},
        {OURS: Figures(), PEER: prompt(50.0)},
        {PEER: prompt(50.0)},
    ]
    assert ratios(turns, read, OURS, PEER) == [2.0, 2.0]
    assert values(turns, OURS, read) == [7.0, 50.0, 100.0]
    assert ratios(turns, read, OURS, "nobody") == []


def test_the_median_of_ratios_is_not_the_ratio_of_medians() -> None:
    ours, theirs = (10.0, 90.0, 50.0), (5.0, 45.0, 40.0)
    turns = [{OURS: prompt(mine), PEER: prompt(other)} for mine, other in zip(ours, theirs, strict=True)]
    assert spread_of(ratios(turns, read, OURS, PEER)) == Spread(2.0, 1.25, 2.0, 3)
    assert spread_of(values(turns, PEER, read)) == Spread(40.0, 5.0, 45.0, 3)
    assert spread_of([]) is None


@pytest.mark.parametrize("pair", [(None, 1.0), (1.0, None), (1.0, 0.0)])
def test_what_is_missing_has_no_ratio(pair: tuple[float | None, float | None]) -> None:
    assert quotient(*pair) is None


def test_the_floor_of_a_turn_is_everybodys() -> None:
    turn = with_floor({OURS: prompt(1.0), BARE: Figures(floor_seconds=0.01)})
    assert turn[OURS] == Figures(prompt=1.0, floor_seconds=0.01)
    assert with_floor({OURS: prompt(1.0)}) == {OURS: prompt(1.0)}


def test_each_target_answers_once_for_nothing_before_the_turns_begin(capsys: pytest.CaptureFixture[str]) -> None:
    targets = everybody()
    turns = list(take_turns(QUICK, targets))
    for target in targets:
        assert target.asked == 1 + sum(target.name in turn for turn in turns)
    decoding = [turn for turn in turns if BARE in turn]
    assert {figures.floor_seconds for turn in decoding for figures in turn.values()} == {0.5}
    assert "round 1 of 1: decoding, streams: 1: ingle, peer, package, bare loop of kernels" in capsys.readouterr().err


def asked_of(target: Target) -> set[tuple[What, int]]:
    return {(question.what, question.streams) for question in FULL.round() if target.takes(question)}


def test_a_peer_of_few_streams_is_asked_for_no_more_and_has_no_health() -> None:
    peer = Endpoint("peer", "http://127.0.0.1:9/v1", FULL, Prompts(len), max_streams=1)
    kinds = {What.PROMPT, What.IDLE, What.MEMORY}
    assert asked_of(peer) == {(What.DECODING, 1), *((kind, 0) for kind in kinds)}


def test_a_package_is_asked_for_what_its_way_of_generating_can() -> None:
    worker = Worker("benchmarks.packages")
    assert asked_of(Package(GENERATE, worker, {})) == {(What.DECODING, 1), (What.DECODING, 8), (What.PROMPT, 0)}
    assert asked_of(Package(GENERATE_BATCH, worker, {})) == {(What.DECODING, 8)}

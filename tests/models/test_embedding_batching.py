"""Which rows share a pass: every row once, within the budget, every caller in turn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.embedding.batching import Backlog, Work

LENGTHS = st.lists(st.lists(st.integers(1, 100), min_size=1, max_size=20), min_size=1, max_size=6)


def work(*lengths: int) -> Work:
    made = Work()
    made.fill([[0] * length for length in lengths])
    return made


def lengths_of(batch: list[tuple[Work, int]]) -> list[int]:
    return [owner.length_of(row) for owner, row in batch]


@given(LENGTHS, st.integers(1, 300))
def test_every_row_is_read_once_and_no_batch_is_beyond_its_budget(callers: list[list[int]], budget: int) -> None:
    backlog: Backlog[Work] = Backlog(budget)
    works = [work(*lengths) for lengths in callers]
    for waiting in works:
        backlog.add(waiting)
    read: set[tuple[int, int]] = set()
    while batch := backlog.next_batch():
        lengths = lengths_of(batch)
        assert len(batch) == 1 or max(lengths) * len(batch) <= budget
        assert max(lengths) <= max(32, 2 * min(lengths) + 1)
        rows = {(id(owner), row) for owner, row in batch}
        assert len(rows) == len(batch)
        assert not rows & read
        read |= rows
    assert len(read) == sum(map(len, callers))
    assert [(waiting.tokens_left, waiting.pending) for waiting in works] == [(0, [])] * len(works)
    assert len(backlog) == 0


@given(LENGTHS)
def test_every_caller_is_served_within_one_round(callers: list[list[int]]) -> None:
    backlog: Backlog[Work] = Backlog(64)
    works = [work(*lengths) for lengths in callers]
    for waiting in works:
        backlog.add(waiting)
    served = {id(owner) for _ in works for owner, _ in backlog.next_batch()}
    assert served == set(map(id, works))


def test_rows_of_about_one_length_are_read_together_whoever_sent_them() -> None:
    backlog: Backlog[Work] = Backlog(1000)
    one, other = work(100, 3), work(90, 4, 60)
    backlog.add(one)
    backlog.add(other)
    assert lengths_of(backlog.next_batch()) == [100, 90, 60]
    assert lengths_of(backlog.next_batch()) == [4, 3]


def test_one_text_waits_for_one_batch_of_a_caller_with_many() -> None:
    backlog: Backlog[Work] = Backlog(100)
    many, one = work(*[50] * 1000), work(5)
    backlog.add(many)
    assert lengths_of(backlog.next_batch()) == [50, 50]
    backlog.add(one)
    assert lengths_of(backlog.next_batch()) == [50, 50]
    assert backlog.next_batch() == [(one, 0)]


def test_a_row_beyond_the_budget_is_read_alone() -> None:
    backlog: Backlog[Work] = Backlog(10)
    backlog.add(work(64, 64))
    assert lengths_of(backlog.next_batch()) == [64]


@pytest.mark.parametrize("taken", [0, 1])
def test_who_has_left_is_not_read_any_more(taken: int) -> None:
    backlog: Backlog[Work] = Backlog(8)
    leaving, staying = work(8, 8), work(8)
    backlog.add(leaving)
    backlog.add(staying)
    for _ in range(taken):
        backlog.next_batch()
    backlog.discard(leaving)
    backlog.discard(leaving)
    assert backlog.next_batch() == [(staying, 0)]
    assert backlog.next_batch() == []

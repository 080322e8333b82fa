"""Lanes share what there is to do, whatever its number, and leave nothing running behind a failure."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.speech.lanes import Lanes


@given(st.integers(1, 5), st.integers(0, 20))
def test_every_row_is_in_one_share_and_shares_differ_by_one_row_at_most(lanes: int, rows: int) -> None:
    shares = Lanes(lanes).shares(rows)
    assert sorted(row for share in shares for row in share) == list(range(rows))
    assert len(shares) == min(lanes, rows)
    sizes = {len(share) for share in shares}
    assert not sizes or max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("lanes", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 8, 13])
def test_what_was_shared_out_comes_back_row_by_row(lanes: int, rows: int) -> None:
    threads = Lanes(lanes)
    assert threads.share_out(lambda share: [row * 10 for row in share], rows) == [row * 10 for row in range(rows)]
    threads.close()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_answers_come_in_the_order_of_the_questions(count: int) -> None:
    lanes = Lanes(count)
    assert lanes.map(lambda item: item * 10, range(7)) == [0, 10, 20, 30, 40, 50, 60]
    lanes.close()


def test_lanes_work_at_the_same_time() -> None:
    lanes = Lanes(2)
    both = threading.Barrier(2, timeout=10)
    assert sorted(lanes.map(lambda _item: both.wait(), range(2))) == [0, 1]
    lanes.close()


def test_a_failure_is_told_when_the_other_lane_has_ended_too() -> None:
    lanes = Lanes(2)
    release, ended = threading.Event(), threading.Event()

    def work(item: int) -> None:
        if item == 0:
            threading.Timer(0.1, release.set).start()
            raise ValueError("the first one")
        assert release.wait(10)
        ended.set()

    with pytest.raises(ValueError, match="the first one"):
        lanes.map(work, range(2))
    assert ended.is_set()
    lanes.close()

"""Whose windows are heard next: pure, with given times."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from models.speech.batcher import BACKGROUND_WEIGHT, Batcher, Line


@dataclass(eq=False)
class Sound:
    """A row."""

    name: str
    key: str = "k"
    seconds: float = 10.0


def names(batch: list[tuple[Line[Sound], Sound]]) -> list[str]:
    return [row.name for _, row in batch]


def filled(batcher: Batcher[Sound], count: int, line: Line[Sound], name: str, **figures: object) -> Line[Sound]:
    batcher.enter(line)
    batcher.add(line, [Sound(f"{name}{number}", **figures) for number in range(count)], 0.0)  # type: ignore[arg-type]
    return line


def test_an_idle_device_waits_for_company_and_a_busy_one_does_not() -> None:
    batcher: Batcher[Sound] = Batcher(4, 0.03)
    first = filled(batcher, 1, Line(), "a")
    assert batcher.next(0.02) == []
    filled(batcher, 1, Line(), "b")
    assert names(batcher.next(0.031)) == ["a0", "b0"]
    batcher.add(first, [Sound("c")], 0.5)
    assert names(batcher.next(0.5)) == ["c"]
    assert batcher.next(0.6) == []
    batcher.add(first, [Sound("d")], 1.0)
    assert batcher.next(1.0) == []
    assert names(batcher.next(1.04)) == ["d"]


def test_who_is_told_to_hurry_waits_no_longer_even_if_the_clock_is_early() -> None:
    batcher: Batcher[Sound] = Batcher(4, 0.03)
    batcher.hurry()
    filled(batcher, 1, Line(), "a")
    assert batcher.next(0.029) == []
    batcher.hurry()
    assert names(batcher.next(0.029)) == ["a0"]


def test_a_full_batch_waits_for_nobody() -> None:
    batcher: Batcher[Sound] = Batcher(2, 0.03)
    filled(batcher, 3, Line(), "a")
    assert names(batcher.next(0.0)) == ["a0", "a1"]


def test_rows_of_a_batch_share_their_key() -> None:
    batcher: Batcher[Sound] = Batcher(8, 0.0)
    line = filled(batcher, 2, Line(), "a", key="x")
    batcher.add(line, [Sound("other", "y"), Sound("a2", "x")], 0.0)
    assert names(batcher.next(0.0)) == ["a0", "a1", "a2"]
    assert names(batcher.next(0.0)) == ["other"]


def test_a_line_in_order_gives_nothing_before_its_first_row() -> None:
    batcher: Batcher[Sound] = Batcher(8, 0.0)
    filled(batcher, 1, Line(), "a", key="x")
    batcher.next(0.0)
    line = filled(batcher, 1, Line(in_order=True), "b", key="y")
    batcher.add(line, [Sound("b1", "x")], 0.0)
    filled(batcher, 1, Line(priority=1), "c", key="x")
    assert names(batcher.next(0.0)) == ["c0"]
    assert names(batcher.next(0.0)) == ["b0"]


def test_a_higher_priority_goes_first() -> None:
    batcher: Batcher[Sound] = Batcher(1, 0.0)
    filled(batcher, 1, Line(), "low")
    filled(batcher, 1, Line(priority=2), "high")
    assert names(batcher.next(0.0)) == ["high0"]


def test_clips_are_heard_within_three_batches_while_two_long_files_run() -> None:
    batcher: Batcher[Sound] = Batcher(4, 0.0)
    for name in ("x", "y"):
        filled(batcher, 200, Line(), name, key="long", seconds=19.0)
    for _ in range(20):
        batcher.next(0.0)
    for number in range(3):
        filled(batcher, 1, Line(), f"clip{number}-", key=f"short{number}", seconds=5.0)
    heard = [name for _ in range(5) for name in names(batcher.next(0.0))]
    assert {f"clip{number}-0" for number in range(3)} <= set(heard)
    for number in range(3):
        assert heard.index(f"clip{number}-0") <= 4 * 2 + 3


def test_one_client_with_fifty_files_does_not_starve_another() -> None:
    batcher: Batcher[Sound] = Batcher(4, 0.0)
    for number in range(50):
        filled(batcher, 10, Line(client="many"), f"m{number}-")
    filled(batcher, 10, Line(client="one"), "o")
    heard = Counter(name[0] for _ in range(5) for name in names(batcher.next(0.0)))
    assert heard["o"] == heard["m"] == 10


def test_work_in_the_background_gets_a_fifth_beside_work_that_is_waited_for() -> None:
    batcher: Batcher[Sound] = Batcher(1, 0.0)
    filled(batcher, 100, Line(), "now")
    filled(batcher, 100, Line(weight=BACKGROUND_WEIGHT), "later")
    heard = Counter(name[:3] for _ in range(50) for name in names(batcher.next(0.0)))
    assert heard["now"] == 40


def test_who_has_left_is_heard_no_more() -> None:
    batcher: Batcher[Sound] = Batcher(4, 0.0)
    line = filled(batcher, 3, Line(), "a")
    batcher.leave(line)
    batcher.leave(line)
    assert batcher.next(0.0) == []


def test_what_is_put_back_comes_first() -> None:
    batcher: Batcher[Sound] = Batcher(2, 0.0)
    line = filled(batcher, 4, Line(), "a")
    taken = [row for _, row in batcher.next(0.0)]
    batcher.put_back(line, taken)
    assert names(batcher.next(0.0)) == ["a0", "a1"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("xyz"), st.floats(0.5, 29)), max_size=60))
def test_every_row_is_heard_once_in_batches_of_one_key(rows: list[tuple[int, str, float]]) -> None:
    batcher: Batcher[Sound] = Batcher(4, 0.0)
    lines = [Line[Sound](client=str(number // 2)) for number in range(4)]
    for line in lines:
        batcher.enter(line)
    for number, (owner, key, seconds) in enumerate(rows):
        batcher.add(lines[owner], [Sound(str(number), key, seconds)], 0.0)
    heard: list[str] = []
    while batch := batcher.next(0.0):
        assert len({row.key for _, row in batch}) == 1
        assert len(batch) <= 4
        heard += names(batch)
    assert sorted(heard, key=int) == [str(number) for number in range(len(rows))]

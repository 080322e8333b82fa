import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.distribution import Distribution, distribution, percentile
from benchmarks.prober import Probe
from benchmarks.responsiveness import row
from benchmarks.table import table


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 50) == 2.0
    assert percentile([1.0, 2.0, 3.0, 4.0], 51) == 3.0
    assert percentile([7.0], 99) == 7.0


def test_one_slow_answer_of_a_hundred_does_not_reach_p99_and_two_do() -> None:
    assert percentile([*[1.0] * 99, 900.0], 99) == 1.0
    assert percentile([*[1.0] * 98, 900.0, 900.0], 99) == 900.0


def test_nothing_measured_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 100))
def test_at_least_so_many_values_are_not_above_a_percentile(values: list[float], percent: float) -> None:
    found = percentile(sorted(values), percent)
    assert sum(value <= found for value in values) >= percent / 100 * len(values) - 1e-9


def test_durations_are_told_in_milliseconds() -> None:
    assert distribution([0.003, 0.001, 0.002]) == Distribution(3, 2.0, 3.0, 3.0)


def test_a_phase_passes_when_p99_is_within_the_bar_and_every_probe_was_answered() -> None:
    quick, slow = Probe(0.0, 0.004, ok=True), Probe(0.0, 0.051, ok=True)
    assert row("idle", "", [quick] * 200).passes
    assert not row("idle", "", [*[quick] * 97, slow, slow, slow]).passes
    assert not row("idle", "", [*[quick] * 200, Probe(0.0, 0.001, ok=False)]).passes


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table(["while", "ms"], [["idle", "1.5"], ["generating", "12.0"]]) == (
        "| while      |   ms |\n|------------|-----:|\n| idle       |  1.5 |\n| generating | 12.0 |"
    )

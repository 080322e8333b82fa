"""Spans into windows and back: as properties, without sound."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.speech.windows import SAMPLE_RATE, Packer, Span, Window, clipped


@st.composite
def spans(draw: st.DrawFn) -> list[Span]:
    """Spans in order, some of them touching, some handed on in pieces, some longer than any window."""
    found: list[Span] = []
    position = 0
    for _ in range(draw(st.integers(1, 12))):
        position += draw(st.sampled_from([0, 1, 4000, 40_000]))
        for piece in range(pieces := draw(st.sampled_from([1, 1, 1, 3]))):
            length = draw(st.integers(1, 35 * SAMPLE_RATE))
            found.append(Span(position, position + length, continues=piece + 1 < pieces))
            position += length
    return found


def packed(found: Sequence[Span], seconds: float) -> list[Window]:
    packer = Packer(seconds, lambda low, high: (low + high) // 2)
    windows = [window for span in found for window in packer.add(span)]
    return [*windows, *packer.finish()]


@settings(max_examples=200, deadline=None)
@given(spans(), st.sampled_from([9.0, 19.0, 29.0]))
def test_every_sample_of_speech_is_in_exactly_one_window(found: list[Span], seconds: float) -> None:
    windows = packed(found, seconds)
    parts = [span for window in windows for span in window.spans]
    assert all(before.stop <= after.start for before, after in pairwise(parts))
    assert sum(map(len, parts)) == sum(map(len, found))
    assert all(any(span.start <= part.start and part.stop <= after for span, after in ends(found)) for part in parts)
    assert all(0 < window.seconds <= seconds for window in windows)


def ends(found: Sequence[Span]) -> list[tuple[Span, int]]:
    """Each span with the end of the speech that it begins."""
    return [(span, next(one.stop for one in found[i:] if not one.continues)) for i, span in enumerate(found)]


@settings(max_examples=200, deadline=None)
@given(spans(), st.lists(st.floats(0, 29), min_size=2, max_size=20))
def test_times_of_the_file_never_run_back_and_lie_in_speech(found: list[Span], times: list[float]) -> None:
    for window in packed(found, 19.0):
        inside = sorted(min(time, window.seconds) for time in times)
        for way in (window.file_start, window.file_end):
            mapped = [way(time) for time in inside]
            assert mapped == sorted(mapped)
            for time in mapped:
                assert any(
                    span.start / SAMPLE_RATE - 1e-6 <= time <= span.stop / SAMPLE_RATE + 1e-6 for span in window.spans
                )
        assert all(window.file_start(time) >= window.file_end(time) - 0.2 - 1e-6 for time in inside)


@settings(max_examples=100, deadline=None)
@given(spans())
def test_the_border_of_a_span_is_the_end_of_one_and_the_start_of_the_next(found: list[Span]) -> None:
    for window in packed(found, 29.0):
        passed = 0.0
        assert window.file_start(0.0) >= window.start - 1e-6
        for before, after in pairwise(window.spans):
            if len(before) < SAMPLE_RATE or len(after) < SAMPLE_RATE:
                return
            passed += len(before) / SAMPLE_RATE
            assert window.file_end(passed) == pytest.approx(before.stop / SAMPLE_RATE)
            assert window.file_start(passed) == pytest.approx(after.start / SAMPLE_RATE)
        assert window.file_end(window.seconds) == pytest.approx(window.end)


@settings(max_examples=100, deadline=None)
@given(spans())
def test_halves_hold_what_the_window_held(found: list[Span]) -> None:
    for window in packed(found, 29.0):
        halves = window.halves(lambda low, high: (low + high) // 2)
        if halves is None:
            assert window.seconds < 4.0
            continue
        assert sum(half.seconds for half in halves) == pytest.approx(window.seconds)
        assert halves[0].end <= halves[1].start
        assert all(half.seconds >= window.seconds / 8 for half in halves)


def test_a_window_is_cut_at_its_longest_pause_near_the_middle() -> None:
    second = SAMPLE_RATE
    window = Window((Span(0, 4 * second), Span(5 * second, 8 * second), Span(10 * second, 14 * second)))
    first, other = window.halves(lambda low, high: low) or (window, window)
    assert (first.end, other.start) == (8.0, 10.0)


@pytest.mark.parametrize(
    ("seconds", "frames"),
    [(0.5, 1000), (9.0, 1000), (9.1, 1500), (14.0, 1500), (19.0, 2000), (24.5, 3000), (29.0, 3000)],
)
def test_a_window_is_padded_to_the_smallest_bucket_with_a_second_to_spare(seconds: float, frames: int) -> None:
    window = Window((Span(0, round(seconds * SAMPLE_RATE)),))
    assert window.frames(full_length=False) == frames
    assert window.frames(full_length=True) == 3000


def test_long_speech_is_cut_where_it_is_quietest_in_the_last_five_seconds() -> None:
    asked: list[tuple[int, int]] = []

    def quietest(low: int, high: int) -> int:
        asked.append((low, high))
        return high - 100

    packer = Packer(19.0, quietest)
    windows = [*packer.add(Span(0, 40 * SAMPLE_RATE)), *packer.finish()]
    assert asked[0] == (14 * SAMPLE_RATE, 19 * SAMPLE_RATE)
    assert [window.spans[0].start for window in windows] == [0, 19 * SAMPLE_RATE - 100, 2 * (19 * SAMPLE_RATE - 100)]


def test_a_short_word_belongs_to_the_span_that_its_middle_lies_in() -> None:
    window = Window((Span(0, SAMPLE_RATE), Span(10 * SAMPLE_RATE, 12 * SAMPLE_RATE)))
    assert window.file_interval(0.7, 1.1) == (0.7, 1.0)
    assert window.file_interval(0.9, 1.5) == pytest.approx((10.0, 10.5))


def test_clips_cut_spans_and_keep_what_goes_on() -> None:
    span = Span(0, 10 * SAMPLE_RATE, continues=True)
    clips = ((1.0, 2.0), (9.0, 20.0))
    assert list(clipped(span, clips)) == [
        Span(SAMPLE_RATE, 2 * SAMPLE_RATE),
        Span(9 * SAMPLE_RATE, 10 * SAMPLE_RATE, continues=True),
    ]
    assert list(clipped(span, ())) == [span]

import itertools
import mmap
import os
from pathlib import Path

import numpy as np

from benchmarks.speech import Bar, Run, best, render, render_figures
from benchmarks.speech_hour import Figure, MemoryWatch
from benchmarks.spoken import CLIPS, error_rate, joined

AUDIO = Path(__file__).parents[1] / "data" / "audio"


def test_a_bar_wants_speed_without_more_errors() -> None:
    assert Bar("", Run(1.0, 0.01), Run(2.0, 0.01), 2.0).is_met
    assert not Bar("", Run(1.1, 0.01), Run(2.0, 0.01), 2.0).is_met
    assert Bar("", Run(1.0, 0.012), Run(2.0, 0.01), 2.0).is_met
    assert not Bar("", Run(1.0, 0.02), Run(2.0, 0.01), 2.0).is_met


def test_rounds_alternate_and_the_best_of_each_counts() -> None:
    order: list[str] = []
    seconds = {"ours": iter([3.0, 1.0]), "peer": iter([2.0, 4.0])}

    def run(name: str) -> Run:
        order.append(name)
        return Run(next(seconds[name]), 0.0)

    assert [one.seconds for one in best(2, [lambda: run("ours"), lambda: run("peer")])] == [1.0, 2.0]
    assert order == ["ours", "peer", "ours", "peer"]


def test_the_table_says_which_bars_are_missed() -> None:
    text = render([Bar("clips", Run(1.0, 0.0), Run(2.0, 0.0), 2.5)], [0.01, 0.02])
    assert "| clips |" in text
    assert "2.00" in text
    assert "NO" in text
    assert "/health meanwhile, p99: 20 ms" in text


def test_a_figure_beyond_its_bound_is_missed() -> None:
    text = render_figures([Figure("growth", 599.9, 600.0, "MiB"), Figure("beside", 1.21, 1.2)])
    assert [line.rstrip(" |").rpartition(" ")[2] for line in text.splitlines()[2:]] == ["yes", "NO"]


def test_memory_that_was_held_for_a_while_is_seen() -> None:
    with MemoryWatch(os.getpid(), every=0.001) as watch, mmap.mmap(-1, 64 << 20) as held:
        # Pages of its own: what an array gets may have been resident before.
        for page in itertools.cycle(range(0, 64 << 20, mmap.PAGESIZE)):
            held[page] = 1
            if watch.growth >= 32 << 20:
                break
    assert watch.growth >= 32 << 20


def test_joined_speech_is_always_the_same_and_knows_where_each_clip_begins() -> None:
    one, other = joined(AUDIO, 60.0), joined(AUDIO, 60.0)
    assert np.array_equal(one.samples, other.samples)
    assert len(one.samples) >= 60 * 16_000
    assert list(one.texts[:6]) == list(CLIPS.values())
    assert one.offsets[0] == 0.0
    assert 12.0 <= one.offsets[1] <= 14.0


def test_words_are_counted_as_they_sound() -> None:
    assert error_rate(["Mister Ill-disposed!"], ["mr ill disposed"]) == 0.0
    assert error_rate(["a b c d"], ["a b x d"]) == 0.25

"""What is believed of a decoded window, with scripted decodings."""

from dataclasses import replace

import pytest

from domain.listening import DecodingOptions, GuardOptions
from models.speech.guard import (
    Attempt,
    Decoded,
    Piece,
    Verdict,
    attempts,
    best_of,
    verdict_on,
    without_repetition,
)
from models.speech.segments import pieces_of
from tests.models.scripted_ears import said

GOOD = said(" He was not an ill-disposed young man.", 3.0)
LOOP = replace(said(" so it goes" * 20, 10.0), tokens=60)


@pytest.mark.parametrize(
    ("decoded", "seconds", "verdict"),
    [
        (GOOD, 3.0, Verdict.ACCEPT),
        (said("", 3.0), 3.0, Verdict.ACCEPT),
        (LOOP, 30.0, Verdict.REDO),
        (replace(GOOD, avg_logprob=-1.01), 3.0, Verdict.REDO),
        (replace(GOOD, avg_logprob=-1.01, no_speech_prob=0.61), 3.0, Verdict.DROP),
        (replace(GOOD, no_speech_prob=0.99), 3.0, Verdict.ACCEPT),
        (GOOD, 1.0, Verdict.REDO),
        (GOOD, 11.1, Verdict.REDO),
        (replace(GOOD, last_time=None), 29.0, Verdict.ACCEPT),
        (replace(GOOD, tokens=224), 19.0, Verdict.SPLIT),
        (replace(GOOD, tokens=220, most_tokens=220), 3.0, Verdict.SPLIT),
    ],
)
def test_each_finding_has_its_verdict(decoded: Decoded, seconds: float, verdict: Verdict) -> None:
    assert verdict_on(decoded, seconds, GuardOptions()) is verdict
    assert verdict_on(decoded, seconds, GuardOptions(enabled=False)) is Verdict.ACCEPT


def test_a_gate_that_is_off_finds_nothing() -> None:
    off = GuardOptions(compression_ratio_threshold=None, log_prob_threshold=None, no_speech_threshold=None)
    for decoded in (LOOP, replace(GOOD, avg_logprob=-9.0, no_speech_prob=1.0)):
        assert verdict_on(decoded, 12.0 if decoded is LOOP else 3.0, off) is Verdict.ACCEPT


def test_a_failing_window_is_tried_at_full_length_and_then_warmer() -> None:
    assert list(attempts(DecodingOptions())) == [
        Attempt(0.0, 1),
        Attempt(0.0, 5, full_length=True),
        *(Attempt(temperature, 1, full_length=True) for temperature in (0.2, 0.4, 0.6, 0.8, 1.0)),
    ]
    assert list(attempts(DecodingOptions(beam_size=8, temperature=(0.0,)))) == [Attempt(0.0, 8), Attempt(0.0, 8, True)]
    assert list(attempts(DecodingOptions(temperature=0.5))) == [Attempt(0.5, 1)]


def test_the_likeliest_attempt_is_kept() -> None:
    tried = [replace(GOOD, avg_logprob=value) for value in (-2.0, -1.2, -1.5)]
    assert best_of(tried).avg_logprob == -1.2


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (" no, no, no", " no, no, no"),
        (" no, no, no, no.", " no."),
        (" I said" + " so it goes" * 9 + " and left", " I said so it goes and left"),
        (" a b" * 3, " a b a b a b"),
        (" one two three four five six" * 4, " one two three four five six"),
        (" one two three four five six seven" * 4, " one two three four five six seven" * 4),
    ],
)
def test_a_phrase_that_repeats_four_times_is_kept_once(text: str, kept: str) -> None:
    assert without_repetition(said(text, 3.0)).text == kept


def test_a_segment_that_repeats_four_times_is_kept_once() -> None:
    pieces = tuple(Piece(float(second), second + 1.0, " Thank you.", (1,)) for second in range(5))
    other = Piece(5.0, 6.0, " Bye.", (2,))
    looped = replace(GOOD, pieces=(*pieces, other))
    assert [piece.text for piece in without_repetition(looped).pieces] == [" Thank you.", " Bye."]
    assert without_repetition(replace(GOOD, pieces=(*pieces[:3], other))).pieces == (*pieces[:3], other)


def test_timestamps_divide_a_text_into_pieces_within_the_speech() -> None:
    stamp = 1000
    tokens = [stamp, 1, 2, stamp + 100, stamp + 100, 3, stamp + 300]
    assert pieces_of(tokens, stamp, 10.0) == [(0.0, 2.0, (1, 2)), (2.0, 6.0, (3,))]
    assert pieces_of([*tokens[:-1]], stamp, 4.0) == [(0.0, 2.0, (1, 2)), (2.0, 4.0, (3,))]
    assert pieces_of(tokens, stamp, 1.0) == [(0.0, 1.0, (1, 2)), (1.0, 1.0, (3,))]
    assert pieces_of([7, 8], stamp, 3.0) == [(0.0, 3.0, (7, 8))]
    assert pieces_of([], stamp, 3.0) == []

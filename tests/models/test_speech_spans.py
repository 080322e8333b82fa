"""Where speech begins and ends: block by block what it is in one piece, and what faster-whisper finds."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from faster_whisper.vad import VadOptions as PeerOptions
from faster_whisper.vad import get_speech_timestamps, get_vad_model
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.spoken import joined
from domain.listening import VadOptions
from models.speech.spans import FRAME, SpanFinder
from models.speech.vad import VoiceDetector
from models.speech.windows import Span

PROBABILITIES = st.lists(st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0]), min_size=1, max_size=300)


def whole(found: list[Span]) -> list[tuple[int, int]]:
    """Spans with those that were handed on in pieces joined again."""
    joined_up: list[tuple[int, int]] = []
    goes_on = False
    for span in found:
        if goes_on and joined_up[-1][1] == span.start:
            joined_up[-1] = joined_up[-1][0], span.stop
        else:
            joined_up.append((span.start, span.stop))
        goes_on = span.continues
    return joined_up


def spans(probabilities: list[float], options: VadOptions, block: int = 10_000) -> list[tuple[int, int]]:
    finder = SpanFinder(options)
    found: list[Span] = []
    for first in range(0, len(probabilities), block):
        found += finder.add(probabilities[first : first + block])
    found += finder.finish(len(probabilities) * FRAME)
    return whole(found)


@settings(max_examples=200, deadline=None)
@given(PROBABILITIES, st.integers(1, 50), st.sampled_from([0, 30, 400]), st.sampled_from([0, 160, 2000]))
def test_spans_do_not_depend_on_the_blocks_and_do_not_overlap(
    probabilities: list[float], block: int, pad: int, silence: int
) -> None:
    options = VadOptions(speech_pad_ms=pad, min_silence_ms=silence)
    found = spans(probabilities, options)
    assert found == spans(probabilities, options, block)
    assert all(0 <= start < stop <= len(probabilities) * FRAME for start, stop in found)
    assert all(before[1] <= after[0] for before, after in pairwise(found))
    for number, probability in enumerate(probabilities):
        if probability >= options.threshold:
            assert any(start <= number * FRAME < stop for start, stop in found)


def test_speech_without_end_is_handed_on_in_pieces() -> None:
    finder = SpanFinder(VadOptions())
    found = list(finder.add([1.0] * 4000))
    assert len(found) >= 3
    assert all(span.continues for span in found)
    assert whole([*found, *finder.finish(4000 * FRAME)]) == [(0, 4000 * FRAME)]


@pytest.mark.parametrize("options", [VadOptions(), VadOptions(True, 0.7, 500, 300, 100)])
def test_spans_are_those_of_faster_whisper(audio_dir: Path, options: VadOptions) -> None:
    sound = joined(audio_dir, 60.0).samples.astype(np.float32) / 32768.0
    sound = sound[: len(sound) // FRAME * FRAME]
    detector, finder = VoiceDetector(), SpanFinder(options)
    found: list[Span] = []
    for first in range(0, len(sound), 100 * FRAME):
        found += finder.add(detector.probabilities(sound[first : first + 100 * FRAME]))
    found += finder.finish(len(sound))
    peer = get_speech_timestamps(
        sound,
        PeerOptions(
            threshold=options.threshold,
            min_silence_duration_ms=options.min_silence_ms,
            min_speech_duration_ms=options.min_speech_ms,
            speech_pad_ms=options.speech_pad_ms,
        ),
    )
    assert len(peer) > 5
    assert [(one["start"], one["end"]) for one in peer] == whole(found)


def test_the_detector_hears_blocks_as_it_hears_the_whole(audio_dir: Path) -> None:
    sound = joined(audio_dir, 30.0).samples.astype(np.float32) / 32768.0
    sound = sound[: len(sound) // FRAME * FRAME]
    reference = get_vad_model()(sound.copy()).reshape(-1).tolist()
    detector = VoiceDetector()
    heard = [p for first in range(0, len(sound), 7 * FRAME) for p in detector.probabilities(sound[first:][: 7 * FRAME])]
    assert heard == VoiceDetector().probabilities(sound)
    # The library silences the end of the last frame.
    assert heard[:-1] == reference[:-1]

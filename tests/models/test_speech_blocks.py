import numpy as np
import pytest

from models.speech.blocks import blocks
from models.speech.decode_child import SAMPLE_RATE
from tests.models.sound import tone


@pytest.mark.parametrize("seconds", [0.02, 9.9, 10.0, 11.0, 11.1, 35.0])
def test_blocks_hold_every_sample_once(seconds: float) -> None:
    samples = tone(seconds, SAMPLE_RATE)
    found = list(blocks(samples, 10.0))
    assert np.array_equal(np.concatenate([block for _, block in found]), samples.astype(np.float32) / 32768)
    starts = np.cumsum([0, *(len(block) for _, block in found)])[:-1] / SAMPLE_RATE
    assert [start for start, _ in found] == pytest.approx(list(starts))
    assert all(len(block) <= 11.0 * SAMPLE_RATE for _, block in found)
    assert all(np.abs(block).max() <= 1.0 for _, block in found)


def test_a_block_ends_where_it_is_quiet() -> None:
    samples = tone(30.0, SAMPLE_RATE)
    samples[int(9.25 * SAMPLE_RATE) : int(9.75 * SAMPLE_RATE)] = 0
    first_end = list(blocks(samples, 10.0))[1][0]
    assert 9.25 < first_end < 9.75

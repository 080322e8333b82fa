"""A recording in blocks that fit into memory, so that hours of sound cost no more of it than minutes."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from models.speech.decode_child import SAMPLE_RATE

BLOCK_SECONDS = 300
CUT_SECONDS = 30
"""The end of a block is looked for in its last half minute, which a pause of speech can hardly miss."""
_FRAMES_PER_SECOND = 4


def blocks(samples: npt.NDArray[np.int16]) -> Iterator[tuple[float, npt.NDArray[np.float32]]]:
    """(start in seconds, samples from -1 to 1) of each block, in order and without gaps, cut where it is quiet."""
    first = 0
    while first < len(samples):
        stop = _end_of_block(samples, first)
        yield first / SAMPLE_RATE, samples[first:stop].astype(np.float32) / 32768.0
        first = stop


def _end_of_block(samples: npt.NDArray[np.int16], first: int) -> int:
    if len(samples) - first <= (BLOCK_SECONDS + CUT_SECONDS) * SAMPLE_RATE:
        return len(samples)
    stop = first + BLOCK_SECONDS * SAMPLE_RATE
    tail = samples[stop - CUT_SECONDS * SAMPLE_RATE : stop].astype(np.float32)
    frame = SAMPLE_RATE // _FRAMES_PER_SECOND
    loudness = np.square(tail.reshape(-1, frame)).mean(axis=1)
    return stop - len(tail) + int(np.argmin(loudness)) * frame + frame // 2

"""A recording in blocks that fit into memory, so that hours of sound cost no more of it than minutes."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from models.speech.decode_child import SAMPLE_RATE

BLOCK_SECONDS = 300.0
CUT_SHARE = 0.1
"""The end of a block is looked for in its last tenth: half a minute, which a pause of speech can hardly miss."""
_FRAMES_PER_SECOND = 4


def blocks(
    samples: npt.NDArray[np.int16], block_seconds: float = BLOCK_SECONDS
) -> Iterator[tuple[float, npt.NDArray[np.float32]]]:
    """(start in seconds, samples from -1 to 1) of each block, in order and without gaps, cut where it is quiet.

    A block is at most a tenth longer than `block_seconds`.
    """
    block = int(block_seconds * SAMPLE_RATE)
    first = 0
    while first < len(samples):
        stop = _end_of_block(samples, first, block)
        yield first / SAMPLE_RATE, samples[first:stop].astype(np.float32) / 32768.0
        first = stop


def _end_of_block(samples: npt.NDArray[np.int16], first: int, block: int) -> int:
    frame = SAMPLE_RATE // _FRAMES_PER_SECOND
    searched = max(1, int(block * CUT_SHARE) // frame) * frame
    if len(samples) - first <= block + searched:
        return len(samples)
    stop = first + block
    tail = samples[stop - searched : stop].astype(np.float32)
    loudness = np.square(tail.reshape(-1, frame)).mean(axis=1)
    return stop - searched + int(np.argmin(loudness)) * frame + frame // 2

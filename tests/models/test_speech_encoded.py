"""Encodings in pieces of one row or more: whichever rows are wanted come in the order in which they are."""

from collections.abc import Sequence

import ctranslate2
import numpy as np
import pytest

from models.speech.whisper import Encoded


def encoded(*sizes: int) -> Encoded:
    """Pieces of so many rows; row n is full of n."""
    rows = np.repeat(np.arange(sum(sizes), dtype=np.float32), 6).reshape(-1, 2, 3)
    pieces = np.split(rows, np.cumsum(sizes)[:-1])
    return Encoded([ctranslate2.StorageView.from_array(np.ascontiguousarray(piece)) for piece in pieces])


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (4,), (1, 3)])
@pytest.mark.parametrize("wanted", [(0, 1, 2, 3), (0, 2), (3, 1), (2,), (1, 2, 3)])
def test_rows_come_as_they_are_wanted(sizes: Sequence[int], wanted: Sequence[int]) -> None:
    found = np.asarray(encoded(*sizes).rows(wanted))
    assert found.shape == (len(wanted), 2, 3)
    assert found[:, 0, 0].tolist() == list(wanted)

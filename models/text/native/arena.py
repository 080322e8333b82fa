"""One stretch of memory for what every step reads, in large pages where the system has them.

With pages of 4 KiB a processor that streams through hundreds of megabytes waits for its page tables a fifth of the
time.
"""

import math
import mmap
from collections.abc import Sequence

import torch

_ALIGNMENT = 64


class Arena:
    """`size` bytes of zeros, handed out piece by piece and given back all at once, when nobody holds a piece."""

    def __init__(self, size: int) -> None:
        self._pages = mmap.mmap(-1, max(size, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._pages.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = torch.frombuffer(self._pages, dtype=torch.uint8)
        self._used = 0

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor of zeros on a boundary of 64 bytes."""
        size = math.prod(shape) * dtype.itemsize
        piece = self._bytes[self._used : self._used + size]
        assert len(piece) == size, "the arena is used up"
        self._used += room_for(size)
        return piece.view(dtype).view(*shape)


def room_for(size: int) -> int:
    """What `size` bytes take of an arena."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT

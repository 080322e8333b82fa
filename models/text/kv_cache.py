"""The tensors behind the blocks: keys and values of every layer, one row a token."""

import mmap
import sys
from collections.abc import Sequence

import torch


class KVCache:
    """`[layers, 2, blocks * block_size, kv_heads, head_dim]`, keys first, in the cache's dtype.

    Row `block * block_size + offset` holds the token at that place, in every layer. On CPU the tensor is address
    space: a row takes memory when it is first written, and gives it back with `discard`.
    """

    def __init__(
        self,
        layers: int,
        num_blocks: int,
        block_size: int,
        kv_heads: int,
        head_dim: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.block_size = block_size
        shape = (layers, 2, num_blocks * block_size, kv_heads, head_dim)
        self._row_bytes = kv_heads * head_dim * dtype.itemsize
        self._pages: mmap.mmap | None = None
        if device.type == "cpu" and sys.platform == "linux" and num_blocks:
            size = layers * 2 * num_blocks * block_size * self._row_bytes
            self._pages = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self._rows = torch.frombuffer(self._pages, dtype=dtype).view(shape)
        else:
            self._rows = torch.empty(shape, dtype=dtype, device=device)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of keys and values."""
        return self._rows.dtype

    @property
    def tokens(self) -> int:
        """How many tokens there is a place for."""
        return self._rows.shape[2]

    @property
    def block_bytes(self) -> int:
        """What a block takes in all layers together."""
        return self._rows.shape[0] * 2 * self.block_size * self._row_bytes

    @property
    def can_discard(self) -> bool:
        """Whether memory is taken row by row, and can be given back."""
        return self._pages is not None

    def discard(self, blocks: Sequence[int]) -> None:
        """Give back the memory of these blocks; what they held is lost. Whole pages only, so neighbours matter."""
        if self._pages is None:
            return
        planes, span = self._rows.shape[0] * 2, self.block_size * self._row_bytes
        for first, count in _runs(blocks):
            for plane in range(planes):
                start = plane * self.tokens * self._row_bytes + first * span
                begin = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
                end = (start + count * span) // mmap.PAGESIZE * mmap.PAGESIZE
                if begin < end:
                    self._pages.madvise(mmap.MADV_DONTNEED, begin, end - begin)

    def addresses(self, layer: int) -> tuple[int, int]:
        """Where the keys and the values of a layer begin in memory, block after block."""
        return self._rows[layer, 0].data_ptr(), self._rows[layer, 1].data_ptr()

    def write(self, layer: int, rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put `[tokens, kv_heads, head_dim]` keys and values at `rows` (int64, `[tokens]`)."""
        cache = self._rows[layer]
        cache[0].index_copy_(0, rows, keys.to(cache.dtype))
        cache[1].index_copy_(0, rows, values.to(cache.dtype))

    def read(self, layer: int, span: "slice | torch.Tensor") -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values at a span of rows: a view where the rows lie together, a copy where they do not."""
        cache = self._rows[layer]
        return cache[0][span], cache[1][span]


def _runs(blocks: Sequence[int]) -> Sequence[tuple[int, int]]:
    """(first, count) of the numbers that follow one another."""
    runs: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if runs and sum(runs[-1]) == block:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((block, 1))
    return runs

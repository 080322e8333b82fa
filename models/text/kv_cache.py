"""The tensors behind the blocks: keys and values of every layer, one row a token."""

import mmap
import sys
from collections.abc import Sequence

import torch


class KVCache:
    """`[2, blocks * block_size, kv_heads, head_dim]` for each layer, keys first, in the cache's dtype.

    Row `block * block_size + offset` holds the token at that place, in every layer. On Linux and a CPU the tensors are
    address space: a row takes memory when it is first written, and gives it back with `discard`. Elsewhere there is
    memory for the first `held` blocks only, and `resize` changes how many these are.
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
        held: int | None = None,
        is_address_space: bool | None = None,
    ) -> None:
        """`held` is None for all blocks; `is_address_space` is None for what the device and the system are best at."""
        self.block_size = block_size
        self.num_blocks = num_blocks
        self._token = (kv_heads, head_dim)
        self._row_bytes = kv_heads * head_dim * dtype.itemsize
        self._pages: mmap.mmap | None = None
        if is_address_space is None:
            is_address_space = device.type == "cpu" and sys.platform == "linux"
        rows = num_blocks * block_size
        if is_address_space and num_blocks:
            self._pages = mmap.mmap(-1, layers * 2 * rows * self._row_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            whole = torch.frombuffer(self._pages, dtype=dtype).view(layers, 2, rows, *self._token)
            self._layers = list(whole.unbind())
        else:
            rows = rows if held is None else held * block_size
            self._layers = [torch.empty(2, rows, *self._token, dtype=dtype, device=device) for _ in range(layers)]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of keys and values."""
        return self._layers[0].dtype

    @property
    def tokens(self) -> int:
        """How many tokens there can be a place for."""
        return self.num_blocks * self.block_size

    @property
    def held(self) -> int:
        """How many blocks, from the first on, every layer has a place for."""
        return min(layer.shape[1] for layer in self._layers) // self.block_size

    @property
    def block_bytes(self) -> int:
        """What a block takes in all layers together."""
        return len(self._layers) * 2 * self.block_size * self._row_bytes

    @property
    def can_discard(self) -> bool:
        """Whether memory is taken row by row, and can be given back so."""
        return self._pages is not None

    def resize(self, held: int) -> None:
        """Have memory for the first `held` blocks; what lies in those that stay is kept. Nothing for address space.

        For the owner thread between two steps: what `read` gave before is a view of what was. One layer after another,
        so that no more than one is there twice. Raises RuntimeError where there is no room; every layer then has
        either its old size or the new one.
        """
        if self._pages is not None:
            return
        rows = held * self.block_size
        for number in range(len(self._layers)):
            if self._layers[number].shape[1] != rows:
                self._layers[number] = self._resized(self._layers[number], rows)
                if self._layers[number].is_cuda:
                    # What was freed is too small for the next layer, and others see only what the driver has back.
                    torch.cuda.empty_cache()

    def bytes_on_the_way(self, held: int) -> int:
        """What a `resize` takes for a moment beyond what it then holds."""
        return 0 if self._pages is not None else held * self.block_bytes // len(self._layers)

    def _resized(self, layer: torch.Tensor, rows: int) -> torch.Tensor:
        new = torch.empty(2, rows, *self._token, dtype=layer.dtype, device=layer.device)
        kept = min(rows, layer.shape[1])
        new[:, :kept].copy_(layer[:, :kept])
        return new

    def discard(self, blocks: Sequence[int]) -> None:
        """Give back the memory of these blocks; what they held is lost. Whole pages only, so neighbours matter."""
        if self._pages is None:
            return
        planes, span = len(self._layers) * 2, self.block_size * self._row_bytes
        for first, count in _runs(blocks):
            for plane in range(planes):
                start = plane * self.tokens * self._row_bytes + first * span
                begin = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
                end = (start + count * span) // mmap.PAGESIZE * mmap.PAGESIZE
                if begin < end:
                    self._pages.madvise(mmap.MADV_DONTNEED, begin, end - begin)

    def copy_block(self, source: int, target: int) -> None:
        """Put what block `source` holds in every layer into `target`. For the owner thread between two steps."""
        size = self.block_size
        for layer in self._layers:
            layer[:, target * size : (target + 1) * size] = layer[:, source * size : (source + 1) * size]

    def addresses(self, layer: int) -> tuple[int, int]:
        """Where the keys and the values of a layer begin in memory, block after block."""
        return self._layers[layer][0].data_ptr(), self._layers[layer][1].data_ptr()

    def write(self, layer: int, rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put `[tokens, kv_heads, head_dim]` keys and values at `rows` (int64, `[tokens]`)."""
        cache = self._layers[layer]
        cache[0].index_copy_(0, rows, keys.to(cache.dtype))
        cache[1].index_copy_(0, rows, values.to(cache.dtype))

    def read(self, layer: int, span: "slice | torch.Tensor") -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values at a span of rows: a view where the rows lie together, a copy where they do not."""
        cache = self._layers[layer]
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

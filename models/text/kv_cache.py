"""The tensors behind the blocks: keys and values of every layer, one row a token."""

import torch


class KVCache:
    """`[layers, 2, blocks * block_size, kv_heads, head_dim]`, keys first, in the cache's dtype.

    Row `block * block_size + offset` holds the token at that place, in every layer.
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
        rows = num_blocks * block_size
        self._rows = torch.empty((layers, 2, rows, kv_heads, head_dim), dtype=dtype, device=device)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of keys and values."""
        return self._rows.dtype

    @property
    def tokens(self) -> int:
        """How many tokens there is room for."""
        return self._rows.shape[2]

    @property
    def num_bytes(self) -> int:
        """What the cache takes, used or not."""
        return self._rows.nbytes

    def write(self, layer: int, rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put `[tokens, kv_heads, head_dim]` keys and values at `rows` (int64, `[tokens]`)."""
        cache = self._rows[layer]
        cache[0].index_copy_(0, rows, keys.to(cache.dtype))
        cache[1].index_copy_(0, rows, values.to(cache.dtype))

    def read(self, layer: int, span: "slice | torch.Tensor") -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values at a span of rows: a view where the rows lie together, a copy where they do not."""
        cache = self._rows[layer]
        return cache[0][span], cache[1][span]

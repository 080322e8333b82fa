"""Attention over the paged cache, under the name that transformers' model classes look it up by.

Each sequence attends by itself: no padding, and the sums of one row never depend on who else is in the batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from models.text.kv_cache import KVCache
from models.text.scheduler import Step

NAME = "ingle_paged"


@dataclass(frozen=True, slots=True)
class Span:
    """One sequence in a packed step: its tokens `start:end` there, the cache rows of all its `length` tokens."""

    start: int
    end: int
    length: int
    rows: "slice | torch.Tensor"


class PagedStep:
    """A step as attention sees it: where to write the new keys and values, and what each sequence may see."""

    def __init__(self, step: Step, cache: KVCache, device: torch.device) -> None:
        self.cache = cache
        self.spans: list[Span] = []
        self._masks: dict[tuple[int, int, int | None], torch.Tensor] = {}
        self._rotation: torch.Tensor | None = None
        self._device = device
        rows: list[int] = []
        start = 0
        for work in step.work:
            length = work.start + work.count
            own = _rows(work.sequence.blocks, cache.block_size, length)
            rows.extend(own[work.start :])
            # Blocks that lie one after another are read in place; others are gathered.
            span = slice(own.start, own.stop) if isinstance(own, range) else torch.tensor(own, device=device)
            self.spans.append(Span(start, start + work.count, length, span))
            start += work.count
        self.rows = torch.tensor(rows, device=device)

    def rotation(self, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """`[1, tokens, dim]` cosines and sines as `[tokens, 1, dim / 2]` complex numbers, the same for all layers."""
        if self._rotation is None:
            half = cos.shape[-1] // 2
            self._rotation = torch.complex(cos[0, :, None, :half].float(), sin[0, :, None, :half].float())
        return self._rotation

    def mask(self, span: Span, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        """What the tokens of a prompt chunk may see, additive; None when a lone token sees everything it is given."""
        count = span.end - span.start
        if count == 1:
            return None
        key = (count, span.length, window)
        if key not in self._masks:
            position = torch.arange(span.length - count, span.length, device=self._device)[:, None]
            seen = torch.arange(span.length, device=self._device)[None, :]
            allowed = seen <= position
            if window is not None:
                allowed &= seen > position - window
            self._masks[key] = torch.zeros(allowed.shape, dtype=dtype, device=self._device).masked_fill_(
                ~allowed, float("-inf")
            )
        return self._masks[key]


def _rows(blocks: list[int], block_size: int, length: int) -> "range | list[int]":
    """The cache rows of the first `length` tokens: a range when the blocks lie one after another."""
    first = blocks[0]
    count = -(-length // block_size)
    if blocks[:count] == list(range(first, first + count)):
        return range(first * block_size, first * block_size + length)
    rows = [block * block_size + offset for block in blocks[:count] for offset in range(block_size)]
    return rows[:length]


# Not an argument: some model classes pass none of those that they do not know on to their attention.
_CURRENT: ContextVar[PagedStep] = ContextVar("step")


@contextmanager
def running(step: PagedStep) -> Iterator[None]:
    """Whatever attends in the block does so in `step`."""
    token = _CURRENT.set(step)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current() -> PagedStep:
    """The step that runs."""
    return _CURRENT.get()


def attend(
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Store `[tokens, kv_heads, dim]` keys and values, then let `[tokens, heads, dim]` queries look back.

    Returns `[tokens, heads, dim]` in the query's dtype. Heads share keys in groups, as in grouped-query attention.
    With `softcap` no score goes beyond it; `sinks`, one score for each head, take a part of the weights for nothing.
    """
    step = current()
    step.cache.write(layer, step.rows, key, value)
    narrow = query.to(step.cache.dtype)
    out = torch.empty_like(query)
    for span in step.spans:
        rows = span.rows
        if window is not None and span.end - span.start == 1 and span.length > window:
            rows = slice(rows.stop - window, rows.stop) if isinstance(rows, slice) else rows[-window:]
        keys, values = (found.transpose(0, 1) for found in step.cache.read(layer, rows))
        asked = narrow[span.start : span.end].transpose(0, 1)
        mask = step.mask(span, window, narrow.dtype)
        if softcap is None and sinks is None:
            seen = _attend_plainly(asked, keys, values, mask, scale)
        else:
            seen = _attend_by_hand(asked, keys, values, mask, scale, softcap, sinks)
        out[span.start : span.end] = seen.transpose(0, 1)
    return out


def _attend_plainly(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """`[heads, tokens, dim]` over `[kv_heads, length, dim]` to `[heads, tokens, dim]`."""
    keys, values = keys.unsqueeze(0), values.unsqueeze(0)
    if query.shape[1] == 1:
        # A lone token has no order among its heads to keep: a group of heads stands where tokens would.
        asked = query.reshape(1, keys.shape[1], -1, query.shape[2])
        return scaled_dot_product_attention(asked, keys, values, scale=scale).reshape(query.shape)
    asked = query.unsqueeze(0)
    return scaled_dot_product_attention(asked, keys, values, attn_mask=mask, scale=scale, enable_gqa=True).squeeze(0)


def _attend_by_hand(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """The same for scores that torch's own product cannot bend; it keeps all of them, in float32."""
    grouped = query.unflatten(0, (keys.shape[0], -1))
    scores = (grouped @ keys.unsqueeze(1).transpose(-1, -2)).float() * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    if sinks is not None:
        sunk = sinks.float().view(*scores.shape[:2], 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat((scores, sunk), dim=-1)
    weights = scores.softmax(dim=-1)[..., : keys.shape[1]]
    seen: torch.Tensor = (weights.to(values.dtype) @ values.unsqueeze(1)).flatten(0, 1)
    return seen


def _window_of(module: Any) -> int | None:
    """The window of a layer whose class has it in the masks that it makes, and does not tell it to its attention."""
    kinds: Any = getattr(module.config, "layer_types", None)
    is_sliding = bool(kinds) and kinds[module.layer_idx] == "sliding_attention"
    window: int | None = getattr(module.config, "sliding_window", None) if is_sliding else None
    return window


def _attention_function(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - the interface's place for what PagedStep knows better
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Implement transformers' attention interface: `[1, heads, tokens, dim]` in, `[1, tokens, heads, dim]` out."""
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    window = sliding_window if sliding_window is not None else _window_of(module)
    packed = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    out = attend(module.layer_idx, *packed, scale=scale, window=window, softcap=softcap, sinks=s_aux)
    return out.unsqueeze(0), None


def register() -> None:
    """Make the name known to transformers; safe to call again."""
    AttentionInterface.register(NAME, _attention_function)

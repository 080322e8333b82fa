"""Runs a step through the kernels: the same steps, cache blocks and logits as `models.text.runner.Runner`.

Only what lies inside a block of the cache is the kernels' own: they keep keys feature by feature.
"""

from ctypes import byref, pointer

import numpy as np
import torch

from models.text.kv_cache import KVCache
from models.text.native.decoder import NativeDecoder
from models.text.native.library import BLOCK, Batch, Span, Workspace, library
from models.text.native.team import Team
from models.text.scheduler import Step
from models.text.scoring import kept_rows

_ROWS = 32
"""Rows of logits in one step that there is always a place for: more than sequences run together by default."""


class NativeRunner:
    """A model and its cache on this CPU; only the owner thread may call it.

    `max_tokens` bounds a step, `context` a sequence; `threads` compute, the caller among them.
    """

    def __init__(self, decoder: NativeDecoder, cache: KVCache, *, threads: int, max_tokens: int, context: int) -> None:
        native = library()
        assert native is not None
        self._library = native
        assert cache.block_size == BLOCK
        self._team = Team(threads)
        self._vocabulary = decoder.vocabulary
        self._width = decoder.width
        self._structure, self._kept = decoder.arranged(cache, context)
        widest = max(decoder.width, decoder.heads * decoder.dim, decoder.inner)
        scratch = native.forward_scratch(byref(self._structure), context)
        mixed = (decoder.heads + 2 * decoder.kv_heads) * decoder.dim
        self._room = {
            "hidden": torch.empty(max_tokens * decoder.width),
            "mixed": torch.empty(max_tokens * mixed),
            "seen": torch.empty(max_tokens * decoder.heads * decoder.dim),
            "gated": torch.empty(max_tokens * decoder.inner),
            "normed": torch.empty(threads * decoder.width),
            "quantized": torch.empty(max_tokens * widest, dtype=torch.uint8),
            "row_scale": torch.empty(max_tokens * decoder.most_groups),
            "scratch": torch.empty(threads * scratch, dtype=torch.uint8),
        }
        pointers = {name: tensor.data_ptr() for name, tensor in self._room.items()}
        # Takes no memory before it is written to.
        self._logits = torch.empty(_ROWS, self._vocabulary)
        self._workspace = Workspace(rows=max_tokens, length=context, **pointers)

    def run(self, step: Step) -> torch.Tensor:
        """`[rows, vocabulary]` float32 logits, one row for each token that `step` samples after, in order.

        They are good until the next step. Sequences that want their prompts scored, or pooled, get what this step says
        of them.
        """
        tokens = step.tokens
        assert tokens <= self._workspace.rows
        ids = np.empty(tokens, dtype=np.int32)
        spans = (Span * len(step.work))()
        blocks: list[int] = []
        firsts: list[int] = []
        start = 0
        for span, work in zip(spans, step.work, strict=True):
            end = work.start + work.count
            ids[start : start + work.count] = work.ids
            firsts.append(len(blocks))
            blocks += work.sequence.blocks[: -(-end // BLOCK)]
            span.start, span.count, span.position = start, work.count, work.start
            start += work.count
        tables = np.array(blocks, dtype=np.int32)
        address = tables.ctypes.data
        for span, first in zip(spans, firsts, strict=True):
            span.blocks = address + first * tables.itemsize
        kept = kept_rows(step)
        rows = np.array(kept.rows, dtype=np.int32)
        logits = self._logits_of(len(kept.rows))
        states = torch.empty(len(kept.rows), self._width) if kept.pools else None
        batch = Batch(
            tokens=tokens,
            spans=len(spans),
            kept=len(kept.rows),
            ids=ids.ctypes.data,
            span=spans,
            keep=rows.ctypes.data,
            logits=logits.data_ptr(),
            states=None if states is None else states.data_ptr(),
        )
        self._library.forward(self._team.address, byref(self._structure), byref(self._workspace), pointer(batch))
        if states is not None:
            kept.pool(step, states)
        return kept.sampled(step, logits)

    def _logits_of(self, rows: int) -> torch.Tensor:
        """Where a step's logits go: for few rows the same place every time.

        The system takes back at once what is this large, and would have it filled with zeros for every step.
        """
        return self._logits[:rows] if rows <= _ROWS else torch.empty(rows, self._vocabulary)

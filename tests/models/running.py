"""Runs sequences through scheduler, runner and sampler without threads, for tests of what they compute."""

from collections.abc import Sequence as Many
from pathlib import Path

import torch

from domain.generation import SamplingParams
from domain.model import WeightFormat
from models.text import weights
from models.text.block_manager import BlockManager
from models.text.execution import block_size_for, reads_alike, runner_for
from models.text.kv_cache import KVCache
from models.text.loader import heads_of
from models.text.lookup import Lookup
from models.text.sampler import Sampler
from models.text.scheduler import Limits, Scheduler
from models.text.sequence import Sequence
from models.text.weights import LoadedWeights, Precision

CPU = torch.device("cpu")
GREEDY = SamplingParams(temperature=0.0)


def load_tiny(
    directory: Path,
    *,
    int8: bool = False,
    native: bool = False,
    converted: Path | None = None,
    device: torch.device = CPU,
) -> LoadedWeights:
    """A model from `directory`, in float32, or with int8 products in the native kernels or without them."""
    target = converted or directory.parent / "converted"
    return weights.load(
        directory,
        WeightFormat.SAFETENSORS,
        lambda layout: target / layout,
        Precision(int8, torch.float32),
        device,
        lambda _: None,
        native=native,
    )


class Bench:
    """A model with its cache, and one way to run prompts to their ends."""

    def __init__(
        self,
        loaded: LoadedWeights,
        *,
        blocks: int = 64,
        block_size: int = 8,
        limits: Limits | None = None,
        device: torch.device = CPU,
    ) -> None:
        """The native kernels keep a block size and a dtype of the cache of their own."""
        config, native = loaded.config, loaded.layers == "native"
        block_size = block_size_for(loaded) if native else block_size
        limits = limits or Limits(chunk=32, max_prefill_tokens=64)
        self.cache = cache = KVCache(
            config.num_hidden_layers,
            blocks,
            block_size,
            *heads_of(config),
            dtype=torch.bfloat16 if native else torch.float32,
            device=device,
        )
        self.scheduler = Scheduler(
            BlockManager(blocks, block_size, copy=cache.copy_block if reads_alike(loaded) else None), limits
        )
        self.runner = runner_for(loaded, cache, device, limits=limits, context=blocks * block_size, threads=2)
        self.sampler = Sampler()
        self.largest_step = 0

    def sequence(
        self, ids: Many[int], new_tokens: int, params: SamplingParams = GREEDY, *, guesses: bool = False
    ) -> Sequence:
        """A request that ends after `new_tokens` only."""
        lookup = Lookup() if guesses else None
        return Sequence(self._next_id(), list(ids), params, new_tokens, frozenset(), arrival=0.0, lookup=lookup)

    def run(self, sequences: Many[Sequence]) -> list[list[int]]:
        """Everybody's new tokens, all admitted at once."""
        for sequence in sequences:
            self.sampler.begin(sequence)
            self.scheduler.add(sequence)
        while self.scheduler.running or self.scheduler.waiting:
            self.step()
            self.scheduler.blocks.check(list(self.scheduler.alive()))
        return [list(sequence.output_ids) for sequence in sequences]

    def step(self) -> torch.Tensor:
        """One forward pass; returns its logits, which are good until the next."""
        step = self.scheduler.schedule()
        self.largest_step = max(self.largest_step, len(step.work))
        logits = self.runner.run(step)
        self.scheduler.complete(step)
        shares = step.shares()
        tokens = self.sampler.sample(logits, [work.sequence for work, rows in shares for _ in rows]).tokens
        for work, rows in shares:
            confirmed = work.confirmed(tokens[rows.start : rows.stop])
            work.sequence.rejected += len(rows) - len(confirmed)
            for number, token in enumerate(confirmed):
                assert isinstance(token, int)
                if number:
                    self.scheduler.confirm(work.sequence)
                self._append(work.sequence, token)
        return logits

    def _append(self, sequence: Sequence, token: int) -> None:
        reason = sequence.append(token)
        if reason is not None:
            self.scheduler.finish(sequence, reason)
            self.sampler.forget(sequence)

    def logits_of(self, ids: Many[int]) -> torch.Tensor:
        """`[tokens, vocabulary]`: the logits after every token of `ids`, each from a request of its own."""
        rows = []
        for end in range(1, len(ids) + 1):
            sequence = self.sequence(ids[:end], 1)
            self.scheduler.add(sequence)
            while sequence.new_tokens == 0:
                logits = self.step()
            rows.append(logits[-1].clone())
        return torch.stack(rows)

    def _next_id(self) -> int:
        self._ids = getattr(self, "_ids", 0) + 1
        return self._ids

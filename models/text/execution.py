"""What runs the steps of a loaded model: the native kernels, or the model's own modules."""

from typing import Protocol

import torch

from models.text.kv_cache import KVCache
from models.text.linear import Int8Linear
from models.text.moving import bytes_of
from models.text.native.decoder import NativeDecoder
from models.text.native.library import BLOCK
from models.text.native.runner import NativeRunner
from models.text.runner import Runner
from models.text.scheduler import Limits, Step
from models.text.weights import LoadedWeights

_BLOCK_SIZE = 32


class StepRunner(Protocol):
    """Runs one step; only the device's owner thread may call it."""

    def run(self, step: Step) -> torch.Tensor:
        """`[rows, vocabulary]` float32 logits, one row for each token that `step` samples after, in order.

        They are good until the next step.
        """
        ...


def block_size_for(loaded: LoadedWeights) -> int:
    """How many tokens a block of the cache of `loaded` holds."""
    return BLOCK if isinstance(loaded.model, NativeDecoder) else _BLOCK_SIZE


def reads_alike(loaded: LoadedWeights) -> bool:
    """Whether a token gets the same logits, to the last bit, however many tokens of its text a step reads.

    Only the native kernels promise that: elsewhere a greedy answer could change by guesses that a step checks, or by
    how much of a prompt had been read for another.
    """
    return isinstance(loaded.model, NativeDecoder)


def runner_for(
    loaded: LoadedWeights, cache: KVCache, device: torch.device, *, limits: Limits, context: int, threads: int
) -> StepRunner:
    """A runner of steps within `limits`, of sequences of up to `context` tokens, with `threads` threads on a CPU."""
    if isinstance(loaded.model, NativeDecoder):
        rows = limits.max_running + limits.max_prefill_tokens + limits.guesses
        return NativeRunner(loaded.model, cache, threads=threads, max_tokens=rows, context=context)
    return Runner(loaded.model, cache, device, threads)


def weight_bytes(loaded: LoadedWeights) -> int:
    """Weights as they lie in memory; the kernels' packed layouts are as large as the plain one."""
    model = loaded.model
    if isinstance(model, NativeDecoder):
        return model.num_bytes
    products = sum(module.packed_bytes for module in model.modules() if isinstance(module, Int8Linear))
    return bytes_of(model) + products

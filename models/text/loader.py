"""Puts a text engine together: weights, cache, scheduler, one warm step."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel

from domain.errors import InsufficientMemory, ModelLoadFailed
from domain.generation import SamplingParams
from domain.model import Model, ModelSpec
from domain.repositories import LoadProgress, OnLoadProgress
from models.inference_thread import InferenceThread
from models.text import weights
from models.text.admission import Admission
from models.text.cache_memory import CacheBudget, CacheMemory
from models.text.engine import TextEngine
from models.text.execution import StepRunner, block_size_for, reads_alike, runner_for, weight_bytes
from models.text.kv_cache import KVCache
from models.text.native.decoder import NativeDecoder
from models.text.parked import Kept, WaitingPlace
from models.text.scheduler import Limits, Scheduler
from models.text.self_test import check_numbers
from models.text.sequence import Sequence
from models.text.weights import LoadedWeights, Precision

# Room for this many tokens of every parallel sequence, when one full context does not need more.
_TOKENS_PER_SEQUENCE = 2048
# A context that nobody asked for can be had up to here whatever others need; the rest while there is room.
PROMISED_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What a deployment decides about text engines: bounds of the batch and of the queue.

    With `speculation` answers are guessed at where that cannot change them.
    """

    limits: Limits = field(default_factory=Limits)
    max_waiting: int = 512
    max_waiting_tokens: int = 262_144
    speculation: bool = True

    def with_parallel(self, sequences: int) -> "EngineOptions":
        """The same with so many sequences in a step; 0 changes nothing."""
        return replace(self, limits=replace(self.limits, max_running=sequences)) if sequences else self


def load_text(
    spec: ModelSpec,
    source: Path,
    converted_directory: Callable[[str], Path],
    *,
    device: torch.device,
    precision: Precision,
    quantization: str,
    num_ctx: int,
    cache_bytes: int,
    options: EngineOptions,
    threads: int,
    thread: InferenceThread,
    on_progress: OnLoadProgress,
    budget: CacheBudget | None = None,
    place: WaitingPlace | None = None,
) -> TextEngine:
    """Load `spec` from `source`; blocking, for a worker thread.

    `num_ctx` 0 takes the model's own context as far as `cache_bytes` of keys and values reach; more than the model has
    positions for is cut to that. With a `budget` the
    cache has only a part of them from the start and asks for more as it needs it. Weights that wait in `place` are
    taken from there, and can go back there when the engine is closed. Raises ModelLoadFailed,
    InsufficientMemory, InsufficientStorage.
    """
    began = time.monotonic()
    limits = options.limits
    loaded = place.take() if place is not None else None
    if loaded is None:
        loaded = weights.load(source, spec.format, converted_directory, precision, device, on_progress, native=True)
    if not (options.speculation and reads_alike(loaded)):
        limits = replace(limits, guesses=0)
    num_ctx = min(num_ctx, _furthest_position(loaded.config))
    cache = _make_cache(spec, loaded, num_ctx, cache_bytes, limits, precision, device, can_grow=budget is not None)
    if not _may_grow(loaded, cache):
        budget = None
    context = min(num_ctx or _context_of(loaded.config), cache.tokens)
    runner = runner_for(loaded, cache, device, limits=limits, context=context, threads=threads)
    promised = num_ctx or min(context, PROMISED_TOKENS)
    wanted = limits.max_running * _TOKENS_PER_SEQUENCE
    cache_memory = CacheMemory(cache, promised, wanted, budget, copies_parts=reads_alike(loaded))
    scheduler = Scheduler(cache_memory.blocks, limits)
    on_progress(LoadProgress("warmup", 0, 1))
    _warm_up(spec, loaded, runner, scheduler, thread, is_exact=cache.dtype is torch.float32)
    on_progress(LoadProgress("warmup", 1, 1))
    info = Model(spec).loaded(
        device=str(device),
        dtype=str(precision.dtype).removeprefix("torch."),
        quantization=quantization,
        context_length=context,
        memory_bytes=weight_bytes(loaded) + cache_memory.use().granted,
        load_time_ms=round((time.monotonic() - began) * 1000),
        kernel=f"{loaded.layers} layers{loaded.why and ': ' + loaded.why}",
    )
    admission = Admission(options.max_waiting, options.max_waiting_tokens)
    return TextEngine(
        info,
        loaded.tokenizer,
        scheduler,
        runner,
        thread,
        admission,
        cache=cache_memory,
        dimensions=int(loaded.config.hidden_size),
        kept=None if place is None or isinstance(loaded.model, NativeDecoder) else Kept(loaded, place),
    )


def _bytes_a_token(config: PretrainedConfig, precision: Precision) -> int:
    """What a token of context takes in the cache."""
    kv_heads, head_dim = heads_of(config)
    return 2 * int(config.num_hidden_layers) * kv_heads * head_dim * _cache_dtype(precision).itemsize


def heads_of(config: PretrainedConfig) -> tuple[int, int]:
    """How many heads have keys and values, and how long each is."""
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(kv_heads), int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _cache_dtype(precision: Precision) -> torch.dtype:
    return torch.bfloat16 if precision.int8 else precision.dtype


def _make_cache(
    spec: ModelSpec,
    loaded: LoadedWeights,
    num_ctx: int,
    cache_bytes: int,
    limits: Limits,
    precision: Precision,
    device: torch.device,
    *,
    can_grow: bool,
) -> KVCache:
    config, block_size = loaded.config, block_size_for(loaded)
    kv_heads, head_dim = heads_of(config)
    dtype = _cache_dtype(precision)
    bytes_a_token = _bytes_a_token(config, precision)
    context = num_ctx or _context_of(config)
    tokens = min(max(context, limits.max_running * _TOKENS_PER_SEQUENCE), cache_bytes // bytes_a_token)
    if tokens < max(num_ctx, limits.chunk):
        raise InsufficientMemory(
            f"the context of '{spec.id}' needs {num_ctx * bytes_a_token} bytes of cache and {cache_bytes} are free: "
            "ask for a smaller num_ctx",
            needed_bytes=num_ctx * bytes_a_token,
            available_bytes=cache_bytes,
        )
    blocks = -(-tokens // block_size)
    shape = (config.num_hidden_layers, blocks, block_size, kv_heads, head_dim)
    held = 0 if can_grow and not isinstance(loaded.model, NativeDecoder) else None
    return KVCache(*shape, dtype=dtype, device=device, held=held)


def _may_grow(loaded: LoadedWeights, cache: KVCache) -> bool:
    """The native kernels are told once where the cache lies: it may be address space, and never move."""
    return cache.can_discard or not isinstance(loaded.model, NativeDecoder)


def _context_of(config: PretrainedConfig) -> int:
    own = int(getattr(config, "max_position_embeddings", None) or 4096)
    return min(own, _furthest_position(config))


def _furthest_position(config: PretrainedConfig) -> int:
    """How long a text may be, whatever is asked for: other positions are not there, or mean something else.

    Where positions are learned there are so many. Some rotations turn every token of a step in another way once one of
    its texts is longer than the model was first made for.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    own = int(getattr(config, "max_position_embeddings", None) or sys.maxsize)
    if not rope:
        return own
    kinds = [rope, *(each for each in rope.values() if isinstance(each, dict))]
    lengths = [int(each["original_max_position_embeddings"]) for each in kinds if each.get("rope_type") == "longrope"]
    return min(lengths + [own for each in kinds if each.get("rope_type") == "dynamic"], default=sys.maxsize)


def _warm_up(
    spec: ModelSpec,
    loaded: LoadedWeights,
    runner: StepRunner,
    scheduler: Scheduler,
    thread: InferenceThread,
    *,
    is_exact: bool,
) -> None:
    """One step on the owner thread: kernels choose themselves, and weights that give no numbers are found out.

    Layers that are transformers' own are compared with what they are without the engine.
    """
    sequence = Sequence(-1, [0, 0], SamplingParams(), 1, frozenset(), arrival=0.0)

    def run() -> None:
        scheduler.add(sequence)
        logits = runner.run(scheduler.schedule())
        scheduler.finish(sequence, None)
        if not bool(torch.isfinite(logits).all()):
            raise ModelLoadFailed(
                f"'{spec.id}' gives no valid numbers: its weights are damaged or its dtype is too narrow"
            )
        if loaded.layers == "plain" and isinstance(loaded.model, PreTrainedModel):
            check_numbers(loaded.model, runner, scheduler, is_exact=is_exact)

    try:
        thread.call_soon(run).result()
    except ModelLoadFailed:
        raise
    except Exception as error:
        raise ModelLoadFailed(
            f"'{spec.id}' loads but does not run: {type(error).__name__}: {error}; its family "
            "may not be supported by the batching engine"
        ) from error

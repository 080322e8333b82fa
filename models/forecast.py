"""What a model will need of a device's memory, told before it is loaded from what lies on disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from domain.errors import ModelLoadFailed
from domain.memory import MemoryNeed
from domain.model import ModelSpec, WeightFormat
from models.configuration import read_object
from models.embedding.placement import Placement as EmbeddingPlacement
from models.text.loader import PROMISED_TOKENS
from models.text.placement import Placement as TextPlacement

_MIB = 1 << 20
# Bytes of memory that a parameter takes, with some to spare. An int8 model's token table rests in its file.
_BYTES_A_PARAMETER = {"int8": 1.05, "int16": 2.2, "bfloat16": 2.2, "float16": 2.2, "float32": 4.4}
# What a step computes in, and what the runtimes put beside the weights.
_TEXT_WORKSPACE = 96 * _MIB
_EMBEDDING_WORKSPACE = 64 * _MIB
_SPEECH_WORKSPACE = 192 * _MIB
# The cache of a model whose shape is not known yet, as a share of its weights.
_UNKNOWN_CACHE = 0.15


def text_need(spec: ModelSpec, placement: TextPlacement, num_ctx: int, configurations: Sequence[Path]) -> MemoryNeed:
    """For a text model, whose config.json lies in one of the directories `configurations`, or is not written yet."""
    weights = _weights(spec, "int8" if placement.precision.int8 else placement.dtype)
    cache = int(weights * _UNKNOWN_CACHE)
    for directory in configurations:
        if (directory / "config.json").is_file():
            cache = _promised_cache(
                directory, 2 if placement.precision.int8 else placement.precision.dtype.itemsize, num_ctx
            )
            break
    return MemoryNeed(str(placement.device), weights, cache, _TEXT_WORKSPACE)


def embedding_need(spec: ModelSpec, placement: EmbeddingPlacement) -> MemoryNeed:
    """For an encoder."""
    return MemoryNeed(str(placement.device), _weights(spec, placement.dtype_name), 0, _EMBEDDING_WORKSPACE)


def speech_need(spec: ModelSpec, device: str, compute_type: str, copies: int = 1) -> MemoryNeed:
    """For a recogniser in so many `copies`; `compute_type` is a name of CTranslate2's, or auto."""
    first = compute_type.partition("_")[0]
    if first == "auto":
        first = "int8" if device == "cpu" else "float16"
    # A type that is not known here may turn out to be any.
    weights = _weights(spec, first if first in _BYTES_A_PARAMETER else "float32")
    return MemoryNeed(device, copies * weights, 0, _SPEECH_WORKSPACE)


def _weights(spec: ModelSpec, precision: str) -> int:
    """From the file's size where the number of parameters is not known."""
    if spec.parameters:
        return int(spec.parameters * _BYTES_A_PARAMETER[precision])
    return int(spec.size_bytes * (2.0 if spec.format is WeightFormat.GGUF else 1.2))


def _promised_cache(directory: Path, item_bytes: int, num_ctx: int) -> int:
    """Keys and values of the context that can be had whatever others need."""
    try:
        config = read_object(directory, "config.json")
    except ModelLoadFailed:
        return 0  # the load itself will say so
    nested = config.get("text_config")
    shape: Mapping[str, Any] = nested if isinstance(nested, dict) else config
    layers, heads, width = (_count(shape, key) for key in ("num_hidden_layers", "num_attention_heads", "hidden_size"))
    kv_heads = _count(shape, "num_key_value_heads") or heads
    head_dim = _count(shape, "head_dim") or (width // heads if heads else 0)
    tokens = num_ctx or min(_count(shape, "max_position_embeddings") or PROMISED_TOKENS, PROMISED_TOKENS)
    return 2 * layers * kv_heads * head_dim * item_bytes * tokens


def _count(shape: Mapping[str, Any], key: str) -> int:
    value = shape.get(key)
    return value if isinstance(value, int) and value > 0 else 0

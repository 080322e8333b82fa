"""The compiled kernels as Python sees them. They are built when Ingle is installed; see `native_build.py`.

The structures mirror those of `forward.h`, field by field.
"""

import ctypes
from ctypes import POINTER, Structure, c_float, c_int64, c_void_p
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("libingle.so")
_INSTRUCTIONS = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "fma"})

# Tokens in a block of the cache, outputs in a pair of columns, and what sizes must be a multiple of.
BLOCK = 16
COLUMN = 16
PAIR = 32
VECTOR = 16


class ProductWeights(Structure):
    """`product_weights`."""

    _fields_ = (
        ("outputs", c_int64),
        ("inputs", c_int64),
        ("group", c_int64),
        ("packed", c_void_p),
        ("scale", c_void_p),
        ("offset", c_void_p),
        ("bias", c_void_p),
    )


class DecoderLayer(Structure):
    """`decoder_layer`; `keys` and `values` are its `layer_cache`."""

    _fields_ = (
        ("qkv", ProductWeights),
        ("out", ProductWeights),
        ("gate_up", ProductWeights),
        ("down", ProductWeights),
        ("norm_in", c_void_p),
        ("norm_mid", c_void_p),
        ("norm_query", c_void_p),
        ("norm_key", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("window", c_int64),
    )


class Decoder(Structure):
    """`decoder`."""

    _fields_ = (
        ("layers", c_int64),
        ("width", c_int64),
        ("inner", c_int64),
        ("vocabulary", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("dim", c_int64),
        ("rotated", c_int64),
        ("eps", c_float),
        ("scale", c_float),
        ("layer", POINTER(DecoderLayer)),
        ("embedding", c_void_p),
        ("norm_out", c_void_p),
        ("head", ProductWeights),
        ("cosines", c_void_p),
        ("sines", c_void_p),
    )


class Workspace(Structure):
    """`workspace`."""

    _fields_ = (
        ("rows", c_int64),
        ("length", c_int64),
        ("hidden", c_void_p),
        ("mixed", c_void_p),
        ("seen", c_void_p),
        ("gated", c_void_p),
        ("normed", c_void_p),
        ("quantized", c_void_p),
        ("row_scale", c_void_p),
        ("scratch", c_void_p),
    )


class Span(Structure):
    """`span`."""

    _fields_ = (("start", c_int64), ("count", c_int64), ("position", c_int64), ("blocks", c_void_p))


class Batch(Structure):
    """`batch`."""

    _fields_ = (
        ("tokens", c_int64),
        ("spans", c_int64),
        ("kept", c_int64),
        ("ids", c_void_p),
        ("span", POINTER(Span)),
        ("keep", c_void_p),
        ("logits", c_void_p),
        ("states", c_void_p),
    )


@cache
def library() -> ctypes.CDLL | None:
    """The kernels; None where they were not built or this CPU lacks their instructions."""
    if not _FILE.exists() or not _cpu_has(_INSTRUCTIONS):
        return None
    # Calls release the interpreter's lock, so the event loop goes on while a step runs.
    loaded = ctypes.CDLL(str(_FILE))
    loaded.team_new.argtypes, loaded.team_new.restype = [ctypes.c_int], c_void_p
    loaded.team_free.argtypes, loaded.team_free.restype = [c_void_p], None
    loaded.forward.argtypes = [c_void_p, POINTER(Decoder), POINTER(Workspace), POINTER(Batch)]
    loaded.forward.restype = None
    loaded.forward_scratch.argtypes, loaded.forward_scratch.restype = [POINTER(Decoder), c_int64], c_int64
    loaded.product.argtypes = [c_void_p, POINTER(ProductWeights), c_void_p, c_int64, c_void_p, c_void_p, c_void_p]
    loaded.product.restype = None
    loaded.greatest.argtypes, loaded.greatest.restype = [c_void_p, c_int64, c_int64, c_void_p, c_void_p], None
    loaded.pack_weights.argtypes = [POINTER(ProductWeights), c_void_p, c_int64, c_int64, c_int64, c_void_p, c_void_p]
    loaded.pack_weights.restype = None
    return loaded


def why_not() -> str:
    """Why there are no kernels, in words; empty where there are."""
    if not _FILE.exists():
        return "the native kernels were not built when Ingle was installed"
    if not _cpu_has(_INSTRUCTIONS):
        return "this CPU lacks AVX-512 VNNI"
    return ""


@cache
def _cpu_has(instructions: frozenset[str]) -> bool:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return instructions <= set(flags)

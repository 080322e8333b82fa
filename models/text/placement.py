"""In what precision a text model computes on its device, and why."""

from dataclasses import dataclass
from functools import cache

import torch

from domain.errors import InvalidRequest
from domain.model import LoadOptions
from models import device
from models.text.linear import int8_is_exact
from models.text.weights import Precision

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a text model will run; `kernel` says it in words, with the reason."""

    device: torch.device
    precision: Precision
    kernel: str

    @property
    def dtype(self) -> str:
        """The dtype that the model computes in, by torch's name."""
        return str(self.precision.dtype).removeprefix("torch.")

    @property
    def quantization(self) -> str:
        """int8 or none."""
        return "int8" if self.precision.int8 else "none"


def place_text(options: LoadOptions) -> Placement:
    """Choose device, dtype and kernel for a text model.

    On CPU: int8 products where they are exact, else bfloat16 where the CPU computes in it, else float32. On
    CUDA: bfloat16, or float16 on cards without it. An explicit wish is obeyed or refused, never bent.
    """
    where = torch.device(device.resolve(options.device))
    if where.type == "cuda":
        return _place_on_cuda(where, options)
    exact = int8_products_are_exact()
    if options.quantization == "int8" and not exact:
        raise InvalidRequest("int8 would lose bits on this CPU, which lacks VNNI: use none", field="quantization")
    if options.quantization == "int8" or (options.quantization == "auto" and exact and options.dtype == "auto"):
        if options.dtype not in ("auto", "float32"):
            raise InvalidRequest("int8 computes in float32 on this CPU: leave dtype out", field="dtype")
        return Placement(where, Precision(True, torch.float32), "int8 rows, exact 32-bit sums (VNNI)")
    if options.dtype != "auto":
        dtype = _DTYPES[options.dtype]
        if dtype is torch.float16:
            raise InvalidRequest("float16 is not for CPUs: use bfloat16 or float32", field="dtype")
        return Placement(where, Precision(False, dtype), f"{options.dtype} as asked")
    if cpu_has_bfloat16():
        return Placement(where, Precision(False, torch.bfloat16), "bfloat16, which this CPU multiplies natively")
    return Placement(where, Precision(False, torch.float32), "float32: this CPU has neither VNNI nor bfloat16")


def _place_on_cuda(where: torch.device, options: LoadOptions) -> Placement:
    if options.quantization == "int8":
        raise InvalidRequest("int8 is for CPUs here: use none on CUDA", field="quantization")
    if options.dtype != "auto":
        return Placement(where, Precision(False, _DTYPES[options.dtype]), f"{options.dtype} as asked")
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Placement(where, Precision(False, torch.bfloat16), "bfloat16 on CUDA")
    return Placement(where, Precision(False, torch.float16), "float16: this card has no bfloat16")


@cache
def int8_products_are_exact() -> bool:
    """Measured once: the CPU's int8 products lose no bit."""
    return int8_is_exact()


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 natively."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())

"""In what precision a text model computes on its device, and why."""

from dataclasses import dataclass

import torch

from domain.errors import InvalidRequest
from domain.model import LoadOptions
from models import device
from models.text import kernel_choice
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

    On CPU: int8 products where they are exact, else bfloat16 where the CPU computes in it, else float32; another of
    these where that is measured to be clearly quicker. On CUDA: bfloat16, or float16 on cards without it. An explicit
    wish is obeyed or refused, never bent.
    """
    where = torch.device(device.resolve(options.device))
    if where.type == "cuda":
        return _place_on_cuda(where, options)
    if options.quantization == "int8":
        return _place_int8(where, options)
    if options.dtype == "auto":
        choice = kernel_choice.chosen(int8=options.quantization == "auto")
        return Placement(where, choice.precision, choice.reason)
    dtype = _DTYPES[options.dtype]
    if dtype is torch.float16:
        raise InvalidRequest("float16 is not for CPUs: use bfloat16 or float32", field="dtype")
    return Placement(where, Precision(False, dtype), f"{options.dtype} as asked")


def _place_int8(where: torch.device, options: LoadOptions) -> Placement:
    if not kernel_choice.int8_products_are_exact():
        raise InvalidRequest("int8 would lose bits on this CPU, which lacks VNNI: use none", field="quantization")
    if options.dtype not in ("auto", "float32"):
        raise InvalidRequest("int8 computes in float32 on this CPU: leave dtype out", field="dtype")
    return Placement(where, Precision(True, torch.float32), "int8 rows as asked")


def _place_on_cuda(where: torch.device, options: LoadOptions) -> Placement:
    if options.quantization == "int8":
        raise InvalidRequest("int8 is for CPUs here: use none on CUDA", field="quantization")
    if options.dtype != "auto":
        return Placement(where, Precision(False, _DTYPES[options.dtype]), f"{options.dtype} as asked")
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Placement(where, Precision(False, torch.bfloat16), "bfloat16 on CUDA")
    return Placement(where, Precision(False, torch.float16), "float16: this card has no bfloat16")

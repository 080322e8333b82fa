"""Where and in what precision an encoder computes."""

from dataclasses import dataclass

import torch

from domain.errors import InvalidRequest
from domain.model import LoadOptions
from models import device

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Tokens of one pass: enough to keep the cores busy, few enough that a text model on the same thread hardly waits.
_STEP_TOKENS = {"cpu": 512, "cuda": 16_384}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how an encoder will run; `step_tokens` are to share one pass there, padding included."""

    device: torch.device
    dtype: torch.dtype
    step_tokens: int

    @property
    def dtype_name(self) -> str:
        """The dtype by torch's name."""
        return str(self.dtype).removeprefix("torch.")


def place_embedding(options: LoadOptions) -> Placement:
    """Choose device and dtype for an encoder: float32 unless another dtype is asked for.

    In 16 bits vectors are off by about a thousandth, and those that an index already holds were not. An explicit
    wish is obeyed or refused, never bent: DeviceNotAvailable, InvalidRequest.
    """
    where = torch.device(device.resolve(options.device))
    if options.quantization == "int8":
        raise InvalidRequest("int8 is not offered for embedding models: leave quantization out", field="quantization")
    dtype = _DTYPES.get(options.dtype, torch.float32)
    if dtype is torch.float16 and where.type == "cpu":
        raise InvalidRequest("float16 is not for CPUs: use bfloat16 or float32", field="dtype")
    return Placement(where, dtype, _STEP_TOKENS[where.type])

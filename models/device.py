"""Which devices there are, and which one a load gets."""

from collections.abc import Sequence

import torch

from application.ports import Gpu
from domain.errors import DeviceNotAvailable


def gpus() -> Sequence[Gpu]:
    """The GPUs that torch can use."""
    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        capability = f"{properties.major}.{properties.minor}"
        found.append(Gpu(index, properties.name, properties.total_memory, capability))
    return found


def names() -> Sequence[str]:
    """Every device that a load may name."""
    return ["cpu", *(f"cuda:{gpu.index}" for gpu in gpus())]


def resolve(device: str) -> str:
    """`auto` and `cuda` made concrete: `cpu` or `cuda:N`. Raises DeviceNotAvailable naming what there is."""
    there = names()
    if device == "auto":
        return there[-1] if len(there) == 1 else "cuda:0"
    if device == "cuda":
        device = "cuda:0"
    if device not in there:
        reason = None if torch.version.cuda else "this build of torch has no CUDA"
        raise DeviceNotAvailable(device, there, reason)
    return device

"""Moves the weights of a model from one memory to another, bit for bit."""

import itertools
import logging
import weakref
from collections.abc import Callable, Hashable, Iterator

import torch
from torch import nn

log = logging.getLogger(__name__)

# Where a tensor begins, so that any dtype may lie there and rows keep the alignment that kernels like.
_ALIGNMENT = 64


def distinct(model: nn.Module) -> dict[Hashable, torch.Tensor]:
    """The parameters and buffers of `model`, those that lie at the same place once."""
    return {_place(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())}


def bytes_of(model: nn.Module) -> int:
    """What the parameters and buffers of `model` take together."""
    return sum(tensor.nbytes for tensor in distinct(model).values())


def move(model: nn.Module, moved: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Put what `moved` makes of every parameter and buffer in its place; tensors that are shared stay so.

    If `moved` raises, the model is as it was. Nobody may use it meanwhile.
    """
    there = {place: moved(tensor.detach()) for place, tensor in distinct(model).items()}
    buffers = [(module, *each) for module in model.modules() for each in _buffers(module)]
    parameters = [(parameter, _place(parameter)) for parameter in model.parameters()]
    for module, name, buffer in buffers:
        setattr(module, name, there[_place(buffer)])
    for parameter, place in parameters:
        parameter.data = there[place]


def move_to(model: nn.Module, device: torch.device) -> None:
    """Move `model` onto `device`. Raises RuntimeError where it does not fit, and then it is where it was."""
    move(model, lambda tensor: torch.empty_like(tensor, device=device).copy_(tensor))


class HostRoom:
    """A piece of the machine's own memory that the tensors of a model are laid into one after another.

    One piece and not one for each tensor, so that the machine has all of it back at once. For a GPU its pages are
    locked, if the driver allows, as copies from there and back are faster then.
    """

    def __init__(self, size: int, tensors: int, device: torch.device) -> None:
        """For so many `tensors` of `device`, `size` bytes in all. Raises RuntimeError where the machine has no room."""
        self._bytes = torch.empty(size + tensors * _ALIGNMENT, dtype=torch.uint8)
        self._used = 0
        self._unlock = _lock_pages(self, self._bytes, device) if device.type == "cuda" else None

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor`, with the strides that it has, in the next free place."""
        shape = torch.empty_like(tensor, device="meta")
        start = self._used
        self._used = -(-(start + tensor.nbytes) // _ALIGNMENT) * _ALIGNMENT
        flat = self._bytes[start : start + tensor.nbytes].view(tensor.dtype)
        return flat.as_strided(shape.shape, shape.stride(), flat.storage_offset()).copy_(tensor)

    def close(self) -> None:
        """Unlock the pages. The memory goes with the last tensor that lies there."""
        if self._unlock is not None:
            self._unlock()


def _lock_pages(owner: HostRoom, memory: torch.Tensor, device: torch.device) -> Callable[[], object] | None:
    """Lock `memory` until `owner` is gone; what unlocks it sooner. None, and a line in the log, if that is refused."""
    runtime = torch.cuda.cudart()
    with torch.cuda.device(device):
        status = runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)
    if status == runtime.cudaError.success:
        unlock = weakref.finalize(owner, _unlock_pages, memory.data_ptr(), device)
        unlock.atexit = False  # the driver ends before that, and takes its locks along
        return unlock
    log.warning("%.1f GiB of host memory cannot be page-locked (%s): copies are slower", memory.nbytes / 2**30, status)
    try:
        # The refusal stays with the runtime until an operation reports it: better this one than somebody's step.
        torch.zeros(1, device=device)
    except RuntimeError as error:
        log.debug("the refusal came back as: %s", error)
    return None


def _unlock_pages(address: int, device: torch.device) -> None:
    # The thread's own device may be another one, where the driver would set itself up for this.
    with torch.cuda.device(device):
        status = torch.cuda.cudart().cudaHostUnregister(address)
    if status != torch.cuda.cudart().cudaError.success:
        log.error("host memory stays page-locked: %s", status)


def _buffers(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Those of `module` itself, by name."""
    return module.named_buffers(recurse=False, remove_duplicate=False)


def _place(tensor: torch.Tensor) -> Hashable:
    storage = tensor.untyped_storage().data_ptr()
    return str(tensor.device), storage, tensor.storage_offset(), tensor.dtype, tensor.shape, tensor.stride()

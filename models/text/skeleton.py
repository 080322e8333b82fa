"""A model of transformers without its weights, and what is put in the place of its modules."""

from collections.abc import Callable, Iterator

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from models.text import attention
from models.text.linear import Int8Linear


class Embedding(nn.Module):
    """Token embeddings that rest in a narrow dtype and come out in the one that the model computes in."""

    def __init__(self, weight: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self._dtype = dtype

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """`[..., tokens]` ids to `[..., tokens, width]`."""
        return nn.functional.embedding(ids, self.weight).to(self._dtype)


def empty_model(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The model class that `config` names, with buffers but without weights, attending over the paged cache."""
    attention.register()
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention.NAME, trust_remote_code=False
        )
    model.eval()
    model.requires_grad_(requires_grad=False)
    return model


def linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Every plain matrix product, by name."""
    for name, module in model.named_modules():
        if type(module) is nn.Linear:
            yield name, module


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place of the one called `name`."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def pack(model: nn.Module, on_step: Callable[[int, int], None]) -> None:
    """Bring every int8 product into its kernel's layout; `on_step` is told (done, all)."""
    waiting = [module for module in model.modules() if isinstance(module, Int8Linear)]
    for done, module in enumerate(waiting, start=1):
        module.pack()
        on_step(done, len(waiting))

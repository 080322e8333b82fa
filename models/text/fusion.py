"""Decoder layers in fewer steps, for the families whose layers are built alike.

One product gives queries, keys and values, another gate and up; scales and residuals are folded into the next
operation; rotation is one complex multiplication, for which the rows of queries and keys are put in pairs.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from models.text.attention import attend, current
from models.text.linear import Int8Linear

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


class FusedLayer(nn.Module):
    """A pre-norm decoder layer with grouped-query attention, rotary positions and a gated SiLU network.

    Takes the arguments of transformers' layers; hidden states are `[1, tokens, width]`, packed, in float32
    with int8 products and in the model's own dtype without.
    """

    def __init__(self, layer: Any, layer_index: int) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self._index = layer_index
        self._dim: int = attention.head_dim
        self._heads = attention.q_proj.out_features // self._dim
        self._kv_heads = attention.k_proj.out_features // self._dim
        self._scale: float = attention.scaling
        # Some families decide about the window layer by layer, others in the configuration alone.
        self._window: int | None = getattr(
            attention, "sliding_window", getattr(attention.config, "sliding_window", None)
        )
        self._eps: float = layer.input_layernorm.variance_epsilon
        self.norm_in: torch.Tensor = layer.input_layernorm.weight
        self.norm_mid: torch.Tensor = layer.post_attention_layernorm.weight
        pairs = _pairs(self._dim)
        for projection in (attention.q_proj, attention.k_proj):
            _permute_rows(projection, pairs)
        self.norm_query = _permuted_norm(attention, "q_norm", pairs)
        self.norm_key = _permuted_norm(attention, "k_norm", pairs)
        self.qkv = _stacked([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out = attention.o_proj
        self.gate_up = _stacked([mlp.gate_proj, mlp.up_proj])
        self.down = mlp.down_proj

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **_: Any,
    ) -> torch.Tensor:
        """`[1, tokens, width]` to the same."""
        hidden = hidden_states[0]
        hidden = self._attend(hidden, current().rotation(*position_embeddings))
        return self._feed_forward(hidden).unsqueeze(0)

    def _attend(self, hidden: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
        normed = nn.functional.rms_norm(hidden, (hidden.shape[1],), self.norm_in, self._eps)
        mixed = self.qkv(normed).view(hidden.shape[0], -1, self._dim)
        turning = mixed[:, : self._heads + self._kv_heads]
        if self.norm_query is not None and self.norm_key is not None:
            query = nn.functional.rms_norm(turning[:, : self._heads], (self._dim,), self.norm_query, self._eps)
            key = nn.functional.rms_norm(turning[:, self._heads :], (self._dim,), self.norm_key, self._eps)
            turning = torch.cat((query, key), dim=1)
        turned = _rotate(turning, rotation)
        value = mixed[:, self._heads + self._kv_heads :]
        query, key = turned[:, : self._heads], turned[:, self._heads :]
        seen = attend(self._index, query, key, value, scale=self._scale, window=self._window)
        return _add_product(hidden, self.out, seen.flatten(1))

    def _feed_forward(self, hidden: torch.Tensor) -> torch.Tensor:
        normed = nn.functional.rms_norm(hidden, (hidden.shape[1],), self.norm_mid, self._eps)
        gate, up = self.gate_up(normed).chunk(2, dim=1)
        return _add_product(hidden, self.down, nn.functional.silu(gate).mul_(up))


def fuse(model: PreTrainedModel) -> bool:
    """Put fused layers in place of the model's own; False, and nothing changed, if its family is not known here."""
    config = model.config
    if config.model_type not in FAMILIES or getattr(config, "hidden_act", None) != "silu":
        return False
    layers: Any = model.base_model.layers
    for index, layer in enumerate(layers):
        layers[index] = FusedLayer(layer, index)
    return True


def _add_product(residual: torch.Tensor, linear: nn.Module, x: torch.Tensor) -> torch.Tensor:
    if isinstance(linear, Int8Linear) and linear.bias is None:
        out, scale = linear.product(x)
        return torch.addcmul(residual, out, scale)
    out = linear(x)
    assert isinstance(out, torch.Tensor)
    return residual + out


def _rotate(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """`[tokens, heads, dim]` whose neighbours are pairs, turned by `[tokens, 1, dim / 2]` complex numbers."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


def _pairs(dim: int) -> torch.Tensor:
    """The order that puts feature i and its partner i + dim / 2 side by side."""
    return torch.arange(dim).view(2, dim // 2).T.flatten()


def _permute_rows(linear: nn.Module, order: torch.Tensor) -> None:
    """Reorder the output features of every head."""
    features = linear.out_features
    assert isinstance(features, int)
    starts = torch.arange(0, features, len(order))
    rows = (starts[:, None] + order).flatten()
    if isinstance(linear, Int8Linear):
        linear.permute_rows(rows)
        return
    assert isinstance(linear, nn.Linear)
    linear.weight = nn.Parameter(linear.weight[rows], requires_grad=False)
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias[rows], requires_grad=False)


def _permuted_norm(attention: Any, name: str, order: torch.Tensor) -> nn.Parameter | None:
    norm = getattr(attention, name, None)
    # A parameter, so that it moves to the device with the rest.
    return None if norm is None else nn.Parameter(norm.weight[order], requires_grad=False)


def _stacked(parts: list[Any]) -> nn.Module:
    if all(isinstance(part, Int8Linear) for part in parts):
        return Int8Linear.stacked(parts)
    weight = torch.cat([part.weight for part in parts])
    has_bias = parts[0].bias is not None
    with torch.device("meta"):
        joined = nn.Linear(weight.shape[1], weight.shape[0], bias=has_bias)
    joined.weight = nn.Parameter(weight, requires_grad=False)
    if has_bias:
        joined.bias = nn.Parameter(torch.cat([part.bias for part in parts]), requires_grad=False)
    return joined

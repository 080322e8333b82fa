"""Matrix kernels: what stands where transformers has `nn.Linear`.

int8 weights carry one scale per output row; activations are quantised per token, never per batch, so a
token's result does not depend on its neighbours, and one outlier spoils only its own row.
"""

from collections.abc import Sequence

import torch
from torch import nn

_ZERO_POINT = 128
# Where a row is all zeros its scale must not be: 0 / 0 is not 0.
_TINY = 1e-12
_ROUNDING = torch.tensor(_ZERO_POINT + 0.5)


def quantize_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`[N, K]` weights as int8 and one float32 scale per row: `weight ≈ int8 * scale[:, None]`."""
    wide = weight.to(torch.float32)
    scale = wide.abs().amax(dim=1).clamp_min_(_TINY).div_(127.0)
    return wide.div_(scale[:, None]).round_().to(torch.int8), scale


class Int8Linear(nn.Module):
    """`y = x Wᵀ + b` with int8 weights; float32 in and out.

    Until `pack` is called the weights are plain and can be stacked; after it only `forward` works.
    """

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight: torch.Tensor | None = weight
        self.scale = scale
        self.bias = bias
        self._packed: torch.Tensor | None = None
        self._zero_points = torch.zeros(self.out_features, dtype=torch.int32)

    @staticmethod
    def stacked(parts: Sequence["Int8Linear"]) -> "Int8Linear":
        """One product in place of several over the same input; outputs stand side by side."""
        weights = [part.weight for part in parts]
        assert all(weight is not None for weight in weights), "packed weights cannot be stacked"
        biases = [part.bias if part.bias is not None else torch.zeros(part.out_features) for part in parts]
        has_bias = any(part.bias is not None for part in parts)
        return Int8Linear(
            torch.cat([weight for weight in weights if weight is not None]),
            torch.cat([part.scale for part in parts]),
            torch.cat(biases) if has_bias else None,
        )

    def permute_rows(self, order: torch.Tensor) -> None:
        """Put the output features in another order; only before `pack`."""
        assert self.weight is not None
        self.weight, self.scale = self.weight[order], self.scale[order]
        self.bias = self.bias[order] if self.bias is not None else None

    def take_weight(self) -> torch.Tensor:
        """The plain weights, for a kernel that keeps them itself; nothing else works afterwards."""
        assert self.weight is not None
        weight, self.weight = self.weight, None
        return weight

    def pack(self) -> None:
        """Bring the weights into the kernel's own layout, and drop the plain ones."""
        self._packed = torch.ops.onednn.qlinear_prepack(self.take_weight(), None)

    @property
    def packed_bytes(self) -> int:
        """What the weights take in memory."""
        return self.out_features * (self.in_features + 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., K]` to `[..., N]`."""
        out, scale = self.product(x.reshape(-1, self.in_features))
        out = out.mul_(scale) if self.bias is None else torch.addcmul(self.bias, out, scale)
        return out.view(*x.shape[:-1], self.out_features)

    def product(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`[M, K]` to `[M, N]` and `[M, 1]`: the result is their product plus the bias.

        Callers who add or multiply next can fold the scaling into that.
        """
        scale = torch.add(_TINY, x.abs().amax(dim=1, keepdim=True), alpha=1.0 / 127.0)
        # Adding a half and cutting off rounds, since every value is positive after the shift.
        quantized = torch.addcmul(_ROUNDING, x, scale.reciprocal()).to(torch.uint8)
        out = torch.ops.onednn.qlinear_pointwise(
            quantized, 1.0, _ZERO_POINT, self._packed, self.scale, self._zero_points, None, 1.0, 0, torch.float32,
            "none", [], "",
        )  # fmt: skip
        return out, scale


def int8_is_exact() -> bool:
    """Whether this CPU's int8 product keeps every bit: without VNNI, pairs of products may saturate at 16 bits."""
    generator = torch.Generator().manual_seed(0)
    activations = torch.randint(0, 256, (8, 256), generator=generator, dtype=torch.uint8)
    activations[0] = 255
    weight = torch.randint(-127, 128, (64, 256), generator=generator, dtype=torch.int8)
    weight[0] = 127
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    ones, zeros = torch.ones(64), torch.zeros(64, dtype=torch.int32)
    got = torch.ops.onednn.qlinear_pointwise(
        activations, 1.0, 0, packed, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return bool(torch.equal(got, activations.float() @ weight.float().T))

"""From a model of transformers to the structures that the kernels read, for the families whose layers they know."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from models.text.linear import Int8Linear
from models.text.native.library import COLUMN, PAIR, VECTOR, Decoder, DecoderLayer, ProductWeights, library

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_STATIC_ROPE = ("default", "linear", "llama3", "yarn")


def unsupported(model: PreTrainedModel) -> str:
    """Why the kernels cannot run `model`; empty if they can."""
    config, base = model.config, _base_of(model)
    if config.model_type not in FAMILIES or getattr(config, "hidden_act", None) != "silu":
        return f"the native kernels do not know the family {config.model_type}"
    rope = _rope_type(model)
    if rope not in _STATIC_ROPE:
        return f"the native kernels do not know positions of the type {rope}"
    attention = base.layers[0].self_attn
    sizes = (config.hidden_size, config.intermediate_size, attention.head_dim)
    if any(size % VECTOR for size in sizes):
        return f"the native kernels want sizes that are multiples of {VECTOR}, and these are {sizes}"
    if not all(isinstance(module, Int8Linear) for module in _products(model)):
        return "the native kernels multiply int8 weights only"
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        return "the native kernels know no bias of the output"
    return ""


class NativeDecoder:
    """A model's weights as the kernels read them; `structure` points into `self` and lives as long.

    Making one takes the plain weights away from `model`, product by product, so that there are never two copies.
    """

    def __init__(self, model: PreTrainedModel, on_step: Callable[[int, int], None]) -> None:
        config, base = model.config, _base_of(model)
        layers = base.layers
        attention = layers[0].self_attn
        self._kept: list[torch.Tensor] = []
        self.vocabulary = int(config.vocab_size)
        self.heads = attention.q_proj.out_features // attention.head_dim
        self.kv_heads = attention.k_proj.out_features // attention.head_dim
        self.dim = int(attention.head_dim)
        self.width, self.inner = int(config.hidden_size), int(config.intermediate_size)
        self.layers = (DecoderLayer * len(layers))()
        self.num_bytes = 0
        self.product_bytes = 0
        for index, layer in enumerate(layers):
            self._fill(self.layers[index], layer)
            on_step(index + 1, len(layers))
        self._rotary = base.rotary_emb
        self.structure = Decoder(
            layers=len(layers),
            width=self.width,
            inner=self.inner,
            vocabulary=self.vocabulary,
            heads=self.heads,
            kv_heads=self.kv_heads,
            dim=self.dim,
            eps=layers[0].input_layernorm.variance_epsilon,
            scale=attention.scaling,
            layer=self.layers,
            embedding=self._keep(base.embed_tokens.weight.detach().to(torch.bfloat16)),
            norm_out=self._keep_floats(base.norm.weight),
            head=self._product([model.get_output_embeddings()]),
        )

    def reach(self, positions: int) -> None:
        """Make the angles of so many positions; before the first step."""
        cosines, sines = _angles(self._rotary, positions)
        self.structure.rotated = 2 * cosines.shape[1]
        self.structure.cosines, self.structure.sines = self._keep(cosines), self._keep(sines)

    def _fill(self, into: DecoderLayer, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        into.qkv = self._product([attention.q_proj, attention.k_proj, attention.v_proj])
        into.out = self._product([attention.o_proj])
        into.gate_up = self._product([mlp.gate_proj, mlp.up_proj], taking_turns=True)
        into.down = self._product([mlp.down_proj])
        into.norm_in = self._keep_floats(layer.input_layernorm.weight)
        into.norm_mid = self._keep_floats(layer.post_attention_layernorm.weight)
        for name in ("query", "key"):
            norm = getattr(attention, f"{name[0]}_norm", None)
            setattr(into, f"norm_{name}", None if norm is None else self._keep_floats(norm.weight))
        # Some families decide about the window layer by layer, others in the configuration alone.
        window = getattr(attention, "sliding_window", getattr(attention.config, "sliding_window", None))
        into.window = window or 0

    def _product(self, parts: Sequence[Any], *, taking_turns: bool = False) -> ProductWeights:
        """One product out of several over the same input, side by side or column by column in turns."""
        inputs = parts[0].in_features
        columns = [-(-part.out_features // COLUMN) for part in parts]
        outputs = -(-sum(columns) * COLUMN // PAIR) * PAIR
        packed = torch.zeros(outputs * inputs, dtype=torch.int8)
        offset = torch.zeros(outputs, dtype=torch.int32)
        scale = torch.zeros(outputs)
        bias = torch.zeros(outputs) if any(part.bias is not None for part in parts) else None
        native = library()
        assert native is not None
        for number, part in enumerate(parts):
            first, step = (number, len(parts)) if taking_turns else (sum(columns[:number]), 1)
            weight = part.take_weight().contiguous()
            native.pack_weights(
                weight.data_ptr(), part.out_features, inputs, first, step, packed.data_ptr(), offset.data_ptr()
            )
            places = _places(part.out_features, first, step)
            scale[places] = part.scale
            if bias is not None and part.bias is not None:
                bias[places] = part.bias.float()
        self.product_bytes += packed.nbytes + 8 * outputs
        return ProductWeights(
            outputs=outputs,
            inputs=inputs,
            packed=self._keep(packed),
            scale=self._keep(scale),
            offset=self._keep(offset),
            bias=None if bias is None else self._keep(bias),
        )

    def _keep_floats(self, tensor: torch.Tensor) -> int:
        return self._keep(tensor.detach().float())

    def _keep(self, tensor: torch.Tensor) -> int:
        """The address of a tensor that must stay where it is."""
        tensor = tensor.contiguous()
        self._kept.append(tensor)
        self.num_bytes += tensor.nbytes
        return tensor.data_ptr()


def _products(model: PreTrainedModel) -> list[nn.Module]:
    products: list[nn.Module] = [model.get_output_embeddings()]
    for layer in _base_of(model).layers:
        attention, mlp = layer.self_attn, layer.mlp
        products += [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
        products += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    return products


def _places(features: int, first: int, step: int) -> torch.Tensor:
    """Where the outputs of a part stand among those of the whole product."""
    feature = torch.arange(features)
    return (first + feature // COLUMN * step) * COLUMN + feature % COLUMN


def _rope_type(model: PreTrainedModel) -> str:
    return str(getattr(_base_of(model).rotary_emb, "rope_type", "default"))


def _base_of(model: PreTrainedModel) -> Any:
    """The decoder below the head; the families here name its parts alike."""
    return model.base_model


def _angles(rotary: Any, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`[positions, rotated / 2]` cosines and sines, as the model's own module makes them."""
    cosines, sines = [], []
    for start in range(0, positions, 4096):
        ids = torch.arange(start, min(positions, start + 4096))[None]
        cosine, sine = rotary(torch.zeros(1, dtype=torch.float32), ids)
        half = cosine.shape[-1] // 2
        cosines.append(cosine[0, :, :half].float())
        sines.append(sine[0, :, :half].float())
    return torch.cat(cosines), torch.cat(sines)

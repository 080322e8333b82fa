"""From a model of transformers to the structures that the kernels read, for the families whose layers they know."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from models.text.kv_cache import KVCache
from models.text.linear import Int8Linear
from models.text.native.arena import Arena
from models.text.native.library import VECTOR, Decoder, DecoderLayer
from models.text.native.product import Product, room_of

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_STATIC_ROPE = ("default", "linear", "llama3", "yarn")
_POSITIONS_AT_ONCE = 4096
# How many features of a layer's input share a scale, at most. A few of them are far greater than the rest, and with
# one scale for all, queries and keys lose what the others say: perplexity rises by 1.4 % instead of 0.1 %. No other
# product gains by it.
_GROUPS = (128, 64, 32, VECTOR)


def unsupported(model: PreTrainedModel) -> str:
    """Why the kernels cannot run `model`; empty if they can."""
    config = model.config
    if config.model_type not in FAMILIES or getattr(config, "hidden_act", None) != "silu":
        return f"the native kernels do not know the family {config.model_type}"
    base = _base_of(model)
    rope = getattr(base.rotary_emb, "rope_type", "default")
    if rope not in _STATIC_ROPE:
        return f"the native kernels do not know positions of the type {rope}"
    sizes = (config.hidden_size, config.intermediate_size, base.layers[0].self_attn.head_dim)
    if any(size % VECTOR for size in sizes):
        return f"the native kernels want sizes that are multiples of {VECTOR}, and these are {sizes}"
    if not all(isinstance(part, Int8Linear) for parts in _products(model) for part in parts):
        return "the native kernels multiply int8 weights only"
    return ""


class NativeDecoder:
    """A model's weights as the kernels read them.

    Making one takes the plain weights away from `model`, product by product, so that there are never two copies;
    `on_step` is told (done, all).
    """

    def __init__(self, model: PreTrainedModel, on_step: Callable[[int, int], None]) -> None:
        config, base = model.config, _base_of(model)
        attention = base.layers[0].self_attn
        self._arena = Arena(sum(map(room_of, _products(model))))
        self._products: list[Product] = []
        self._kept: list[torch.Tensor] = []
        self._rotary = base.rotary_emb
        self.vocabulary = int(config.vocab_size)
        self.heads = attention.q_proj.out_features // attention.head_dim
        self.kv_heads = attention.k_proj.out_features // attention.head_dim
        self.dim = int(attention.head_dim)
        self.width, self.inner = int(config.hidden_size), int(config.intermediate_size)
        self._layers = []
        for done, layer in enumerate(base.layers, start=1):
            self._layers.append(self._layer(layer))
            on_step(done, len(base.layers))
        head = self._product([model.get_output_embeddings()])
        self._structure = Decoder(
            layers=len(self._layers),
            width=self.width,
            inner=self.inner,
            vocabulary=self.vocabulary,
            heads=self.heads,
            kv_heads=self.kv_heads,
            dim=self.dim,
            eps=base.norm.variance_epsilon,
            scale=attention.scaling,
            embedding=self._keep(base.embed_tokens.weight.detach().to(torch.bfloat16)),
            norm_out=self._floats(base.norm.weight),
            head=head.structure,
        )

    @property
    def product_bytes(self) -> int:
        """What a step reads of the weights of matrix products."""
        return sum(product.num_bytes for product in self._products)

    @property
    def most_groups(self) -> int:
        """How many scales a row of what is multiplied has at most."""
        return max(product.groups for product in self._products)

    @property
    def num_bytes(self) -> int:
        """What all of it takes in memory."""
        return self.product_bytes + sum(tensor.nbytes for tensor in self._kept)

    def arranged(self, cache: KVCache, positions: int) -> tuple[Decoder, list[object]]:
        """The model over a cache of its own, and what must live as long as that is used."""
        layers = (DecoderLayer * len(self._layers))(*self._layers)
        for index, layer in enumerate(layers):
            layer.keys, layer.values = cache.addresses(index)
        cosines, sines = _angles(self._rotary, positions)
        structure = Decoder.from_buffer_copy(self._structure)
        structure.layer = layers
        structure.rotated = 2 * cosines.shape[1]
        structure.cosines, structure.sines = cosines.data_ptr(), sines.data_ptr()
        return structure, [self, layers, cache, cosines, sines]

    def _layer(self, layer: Any) -> DecoderLayer:
        attention, mlp = layer.self_attn, layer.mlp
        queries_keys_values = [attention.q_proj, attention.k_proj, attention.v_proj]
        norms = {name: getattr(attention, f"{name[0]}_norm", None) for name in ("query", "key")}
        # Some families decide about the window layer by layer, others in the configuration alone.
        window = getattr(attention, "sliding_window", getattr(attention.config, "sliding_window", None))
        return DecoderLayer(
            qkv=self._product(queries_keys_values, group=_group(self.width)).structure,
            out=self._product([attention.o_proj]).structure,
            gate_up=self._product([mlp.gate_proj, mlp.up_proj], taking_turns=True).structure,
            down=self._product([mlp.down_proj]).structure,
            norm_in=self._floats(layer.input_layernorm.weight),
            norm_mid=self._floats(layer.post_attention_layernorm.weight),
            window=window or 0,
            **{f"norm_{name}": None if norm is None else self._floats(norm.weight) for name, norm in norms.items()},
        )

    def _product(self, parts: list[Any], *, taking_turns: bool = False, group: int | None = None) -> Product:
        product = Product(parts, self._arena, taking_turns=taking_turns, group=group)
        self._products.append(product)
        return product

    def _floats(self, tensor: torch.Tensor) -> int:
        return self._keep(tensor.detach().float())

    def _keep(self, tensor: torch.Tensor) -> int:
        """The address of a tensor that must stay where it is."""
        tensor = tensor.contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()


def _group(width: int) -> int:
    return next(size for size in _GROUPS if width % size == 0)


def _products(model: PreTrainedModel) -> list[list[Any]]:
    """What is multiplied with one input, for every product of a step."""
    products: list[list[Any]] = [[model.get_output_embeddings()]]
    for layer in _base_of(model).layers:
        attention, mlp = layer.self_attn, layer.mlp
        products += [[attention.q_proj, attention.k_proj, attention.v_proj], [attention.o_proj]]
        products += [[mlp.gate_proj, mlp.up_proj], [mlp.down_proj]]
    return products


def _base_of(model: PreTrainedModel) -> Any:
    """The decoder below the head; the families here name its parts alike."""
    return model.base_model


def _angles(rotary: Any, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`[positions, rotated / 2]` cosines and sines, as the model's own module makes them."""
    cosines, sines = [], []
    for start in range(0, positions, _POSITIONS_AT_ONCE):
        ids = torch.arange(start, min(positions, start + _POSITIONS_AT_ONCE))[None]
        cosine, sine = rotary(torch.zeros(1), ids)
        half = cosine.shape[-1] // 2
        cosines.append(cosine[0, :, :half].float())
        sines.append(sine[0, :, :half].float())
    return torch.cat(cosines), torch.cat(sines)

"""Reads a GGUF file: configuration, tokenizer, and tensors under the names of transformers' model classes.

transformers' own loader parses the vocabulary three times over and holds all tensors at once; here its parts
are used one tensor at a time, so that a conversion needs little more memory than the largest tensor.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, PretrainedConfig
from transformers.integrations.ggml import GGUF_CONFIG_DEFAULTS_MAPPING, GGUF_CONFIG_MAPPING
from transformers.integrations.gguf import dequant, reader
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer, get_gguf_tokenizer
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

from domain.errors import ModelLoadFailed
from models.text.tokenizer import TextTokenizer

# The families whose tensors need no more than renaming and llama's row order.
ARCHITECTURES = ("llama", "qwen2", "qwen3")
_PLAIN_TYPES = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}


@dataclass(frozen=True, slots=True)
class _TensorPlace:
    """Where a tensor lies in the file, in bytes, and how it is stored; `shape` in torch's order."""

    name: str
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    start: int
    end: int


class GgufSource:
    """One GGUF file. Raises ModelLoadFailed if it is not one, or of a family that is not known here."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._metadata, self._places = _read_header(path)
        except ModelLoadFailed:
            raise
        except Exception as error:  # whatever malformed bytes make of a parser
            raise ModelLoadFailed(f"{path.name} is not a GGUF file, or its header is damaged") from error
        self.architecture = str(self._metadata.get("general.architecture"))
        if self.architecture not in ARCHITECTURES:
            raise ModelLoadFailed(
                f"{path.name} is of the family '{self.architecture}'; from GGUF files Ingle reads "
                f"{', '.join(ARCHITECTURES)}: use the model's safetensors release instead"
            )

    def config(self) -> PretrainedConfig:
        """The model's configuration, as transformers would have written it."""
        known: dict[str, Any] = {
            "model_type": self.architecture,
            "tie_word_embeddings": "output.weight" not in self._places,
        }
        known |= GGUF_CONFIG_DEFAULTS_MAPPING.get(self.architecture) or {}
        names: dict[str, Any] = dict(GGUF_CONFIG_MAPPING[self.architecture])  # type: ignore[call-overload]
        for key, name in names.items():
            value = self._metadata.get(f"{self.architecture}.{key}")
            if name not in (None, -1) and value is not None:
                known[name] = value
        for name in ("bos_token_id", "eos_token_id"):
            known[name] = self._metadata.get(f"tokenizer.ggml.{name}")
        known["vocab_size"] = self._places["token_embd.weight"].shape[0]
        return AutoConfig.for_model(**known)

    def tokenizer(self) -> TextTokenizer:
        """The vocabulary, merges, template and special tokens that the file carries."""
        architecture, vocabulary, settings = get_gguf_tokenizer(str(self._path))
        backend, more = convert_gguf_tokenizer(architecture, vocabulary)
        return TextTokenizer.from_parts(backend, {**settings, **more})

    def __len__(self) -> int:
        return len(self._places)

    def tensors(self, skeleton: nn.Module, config: PretrainedConfig) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor, dequantised to float32, under its name in `skeleton`'s state dict."""
        processor_class: Any = TENSOR_PROCESSORS.get(self.architecture, TensorProcessor)
        processor = processor_class(config=config.to_dict())
        names = get_gguf_hf_weights_map(skeleton, processor)
        blob = np.memmap(self._path, mode="r")
        for place in self._places.values():
            if place.name not in names:
                continue
            weights = _dequantized(blob[place.start : place.end], place)
            renamed = processor.process(weights=weights.numpy(), name=place.name)
            yield names[renamed.name], torch.from_numpy(renamed.weights)


def _read_header(path: Path) -> tuple[dict[str, Any], dict[str, _TensorPlace]]:
    """Metadata and tensor table. The `gguf` package takes 6 s for this on a large vocabulary, transformers 0.1 s."""
    blob = reader._mapped(str(path))  # transformers is pinned, and its public header refuses some kinds
    metadata, count, position = reader._read_metadata(blob, str(path))
    entries, position = reader._read_tensor_table(blob, count, position)
    alignment = int(metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT))
    data = -(-position // alignment) * alignment
    places = {}
    for name, shape, number, offset in entries:
        kind = gguf.GGMLQuantizationType(number)
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        end = data + offset + math.prod(shape) // elements * size
        if end > len(blob):
            raise ModelLoadFailed(f"{path.name} is cut short: the tensor {name} lies beyond its end")
        places[name] = _TensorPlace(name, tuple(shape), kind, data + offset, end)
    return metadata, places


def _dequantized(raw: Any, place: _TensorPlace) -> torch.Tensor:
    """The tensor in float32. transformers does it in torch, several times faster, for the kinds that it knows."""
    data = np.array(raw)
    if place.kind in _PLAIN_TYPES:
        return torch.from_numpy(data).view(_PLAIN_TYPES[place.kind]).float().reshape(place.shape)
    elements, size = gguf.GGML_QUANT_SIZES[place.kind]
    rows = data.reshape(*place.shape[:-1], place.shape[-1] // elements * size)
    if int(place.kind) in dequant.GGML_BLOCK:
        return dequant.dequantize(torch.from_numpy(rows), int(place.kind)).reshape(place.shape)
    return torch.from_numpy(gguf.dequantize(rows, place.kind))

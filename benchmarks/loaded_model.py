"""A text model of the local store, loaded as the server would load it, without the server. Imports torch."""

import os
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from pathlib import Path

import torch

from domain.generation import SamplingParams
from domain.model import LoadOptions, WeightFormat
from ingle.bootstrap import usable_cores
from ingle.model_store import open_store
from ingle.settings_sources import read_settings
from models.store import InstalledModel, ModelStore
from models.text import weights
from models.text.block_manager import BlockManager
from models.text.execution import block_size_for, runner_for
from models.text.kv_cache import KVCache
from models.text.placement import Placement, place_text
from models.text.scheduler import Limits, Step, Work
from models.text.sequence import Sequence
from models.text.weights import LoadedWeights


@dataclass(frozen=True, slots=True)
class InstalledText:
    """A model on disk, and the store that knows where its converted copies lie."""

    store: ModelStore
    model: InstalledModel

    @property
    def source(self) -> Path:
        """The GGUF file, or the directory with safetensors."""
        if self.model.spec.format is WeightFormat.GGUF:
            return next(file.path for file in self.model.files if file.name.endswith(".gguf"))
        return self.model.directory

    def load(self, placement: Placement, *, native: bool = True) -> LoadedWeights:
        """Weights and tokenizer in the placement's precision; makes the converted copy if it is not there."""
        torch.set_num_threads(usable_cores())
        return weights.load(
            self.source,
            self.model.spec.format,
            lambda layout: self.store.converted_dir(self.model, layout),
            placement.precision,
            placement.device,
            lambda _: None,
            native=native,
        )


def find(name: str) -> InstalledText:
    """The installed model called `name`. Raises ModelNotFound."""
    store = open_store(read_settings(os.environ).settings)
    return InstalledText(store, store.find(name))


def placed(device: str, quantization: str = "auto", dtype: str = "auto") -> Placement:
    """Where and how `device` runs text models. Raises InvalidRequest for a kernel that it does not offer."""
    return place_text(LoadOptions(device=device, quantization=quantization, dtype=dtype))


class Batch:
    """Sequences that go through a runner together, one step after the other, without a scheduler."""

    def __init__(self, loaded: LoadedWeights, placement: Placement, prompts: Ids[Ids[int]], more_tokens: int) -> None:
        """Each of `prompts` (token ids) has room for `more_tokens` more."""
        config, size = loaded.config, block_size_for(loaded)
        heads = config.num_attention_heads
        length = max(map(len, prompts)) + more_tokens
        blocks = BlockManager(len(prompts) * (length // size + 1), size)
        cache = KVCache(
            config.num_hidden_layers,
            blocks.num_blocks,
            size,
            getattr(config, "num_key_value_heads", None) or heads,
            getattr(config, "head_dim", None) or config.hidden_size // heads,
            dtype=torch.bfloat16 if placement.precision.int8 else placement.precision.dtype,
            device=placement.device,
        )
        self._runner = runner_for(
            loaded,
            cache,
            placement.device,
            limits=Limits(max_running=len(prompts), max_prefill_tokens=length),
            context=length,
            threads=usable_cores(),
        )
        self.sequences = [
            Sequence(number, list(ids), SamplingParams(), more_tokens, frozenset(), arrival=0.0)
            for number, ids in enumerate(prompts)
        ]
        for sequence in self.sequences:
            assert blocks.grow(sequence, len(sequence.ids) + more_tokens)

    def read(self, sequence: Sequence) -> torch.Tensor:
        """`[vocabulary]` logits after the whole text of one sequence, read at once."""
        return self._runner.run(Step((Work(sequence, 0, len(sequence.ids)),)))[0]

    def step(self) -> torch.Tensor:
        """`[sequences, vocabulary]` logits after the last token of each; those before it must have been read."""
        work = tuple(Work(sequence, len(sequence.ids) - 1, 1) for sequence in self.sequences)
        return self._runner.run(Step(work))

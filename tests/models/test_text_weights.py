"""What is refused before it is loaded."""

import json
from pathlib import Path

import pytest

from domain.errors import ModelLoadFailed
from tests.models.running import load_tiny
from tests.models.tiny import save_tiny


def edit_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoModelForCausalLM": "evil.Model"}},
        {"trust_remote_code": True},
        {"quantization_config": {"quant_method": "evil"}},
        {"hidden_size": 1 << 40},
        {"num_hidden_layers": -1},
        {"model_type": "no-such-family"},
    ],
)
def test_a_configuration_that_brings_code_or_absurd_sizes_is_refused(
    changes: dict[str, object], tmp_path: Path
) -> None:
    directory = save_tiny(tmp_path / "model")
    edit_config(directory, **changes)
    with pytest.raises(ModelLoadFailed) as refused:
        load_tiny(directory)
    assert str(tmp_path) not in str(refused.value)


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "model")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(ModelLoadFailed, match="safetensors"):
        load_tiny(directory)


def test_cut_weights_are_refused_and_the_whole_ones_load_afterwards(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "model")
    weights = directory / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelLoadFailed, match="model"):
        load_tiny(directory)
    weights.write_bytes(whole)
    assert load_tiny(directory).layers == "fused"

"""What a model's own generation_config.json decides where a request does not."""

import json
from pathlib import Path
from typing import Any

import pytest

from domain.preset import Preset
from models.describe import Unusable, describe
from models.generation_settings import FILE, preset_of
from tests.models.tiny import save_tiny

QWEN = {
    "do_sample": True,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
    "repetition_penalty": 1.1,
    "eos_token_id": [2],
}


def test_settings_beside_the_weights_are_the_models_own_parameters(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "tiny")
    assert describe(directory, "tiny").preset == Preset()
    (directory / FILE).write_text(json.dumps(QWEN))
    assert describe(directory, "tiny").preset == Preset(
        parameters=(("temperature", 0.7), ("top_k", 20), ("top_p", 0.8), ("repeat_penalty", 1.1))
    )
    (directory / FILE).write_text("[")
    with pytest.raises(Unusable, match=FILE):
        describe(directory, "tiny")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.7},
        {"do_sample": False, "temperature": 0.7},
        {"do_sample": True, "temperature": 9, "top_p": "x", "top_k": 1.5, "min_p": True, "repetition_penalty": 0},
    ],
)
def test_what_does_not_sample_or_cannot_be_is_left_out(settings: dict[str, Any]) -> None:
    assert preset_of(settings) == Preset()

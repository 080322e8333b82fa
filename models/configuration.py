"""What a checkpoint's config.json may say before transformers acts on it."""

import json
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from domain.errors import ModelLoadFailed

# Keys by which a configuration would have code fetched or chosen.
_CODE_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines", "_attn_implementation", "quantization_config")
_MAX_SIZES = {
    "hidden_size": 1 << 17,
    "intermediate_size": 1 << 19,
    "num_hidden_layers": 1 << 10,
    "num_attention_heads": 1 << 12,
    "vocab_size": 1 << 22,
    "max_position_embeddings": 1 << 22,
    "type_vocab_size": 1 << 10,
}
_MAX_FILE = 16 << 20


def read_json(directory: Path, name: str) -> Any:
    """The JSON in `name` below `directory`. Raises ModelLoadFailed naming the file."""
    try:
        with (directory / name).open("rb") as file:
            content = file.read(_MAX_FILE + 1)
        if len(content) > _MAX_FILE:
            raise ModelLoadFailed(f"{name} of {directory.name} is too large")
        return json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadFailed(f"{name} of {directory.name} is missing or is not JSON") from error


def read_object(directory: Path, name: str) -> dict[str, Any]:
    """The JSON object in `name` below `directory`. Raises ModelLoadFailed naming the file."""
    found = read_json(directory, name)
    if not isinstance(found, dict):
        raise ModelLoadFailed(f"{name} of {directory.name} is not a JSON object")
    return found


def refuse_code(directory: Path) -> None:
    """A configuration may describe weights; it may not bring code. Raises ModelLoadFailed."""
    config = read_object(directory, "config.json")
    found = [key for key in _CODE_KEYS if key in config]
    if found:
        raise ModelLoadFailed(f"config.json of {directory.name} has '{found[0]}', which Ingle does not follow")


def check_sizes(config: PretrainedConfig) -> None:
    """Bound what the configuration says before it sizes a tensor. Raises ModelLoadFailed."""
    inner = config.get_text_config()
    for name, limit in _MAX_SIZES.items():
        value = getattr(inner, name, None)
        if value is not None and not (isinstance(value, int) and 0 < value <= limit):
            raise ModelLoadFailed(f"the model's configuration gives {name} as {value!r}")

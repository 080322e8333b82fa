"""A real `ingle serve` over its own models folder, for the official clients."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from tests import needs
from tests.fakes.registry import Registry
from tests.models.weight_files import safetensors

MODEL = "qwen2.5-coder:0.5b"
EMBEDDING = "all-minilm-l6-v2"
HUB_MODEL = "hf.co/org/little"
HUB_FILES = {
    "config.json": b'{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "max_position_embeddings": 64}',
    "model.safetensors": safetensors({"model.embed_tokens.weight": (1000, 300)}),
    "tokenizer.json": b"{}",
}


def lend_models(folder: Path) -> Path:
    """A models folder of its own with the default store's models in it, as links to the same bytes."""
    source = needs.default_settings().models_dir / ".ingle"
    for name in ("manifests", "artefacts", "converted", "verified"):
        if (source / name).exists():
            shutil.copytree(source / name, folder / ".ingle" / name, copy_function=_link)
    return folder


def _link(source: str, destination: str) -> None:
    try:
        os.link(source, destination)
    except OSError:  # another disk
        shutil.copy2(source, destination)


@contextmanager
def serving(folder: Path, registry: Registry) -> Iterator[str]:
    """The address of a server that pulls from `registry`, until the block ends."""
    registry.add_repository("org/little", HUB_FILES, small=("config.json", "tokenizer.json"))
    settings = {
        "INGLE_MODELS_DIR": str(lend_models(folder / "models")),
        "INGLE_DATA_DIR": str(folder),
        "INGLE_HTTP_PORT": "0",
        "INGLE_LOG_FORMAT": "json",
        "INGLE_HUB_URL": registry.hub_url,
        "INGLE_INDEX_URL": registry.index_url,
    }
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("INGLE_", "OLLAMA_"))}
    command = [sys.executable, "-m", "ingle", "serve"]
    with subprocess.Popen(command, env=environ | settings, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            records = map(orjson.loads, process.stdout)
            yield str(next(record["url"] for record in records if record["event"] == "serving"))
        finally:
            process.kill()

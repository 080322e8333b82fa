"""Weights that are not what they were: the error names the file, and everything else goes on."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from benchmarks.server import Server
from models.layout import Layout, key_of
from models.store import ModelStore
from tests import needs

SMALLEST = "smollm2:135m"
OTHER = "whisper:base"


@pytest.fixture(scope="module")
def models_dir(model_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder of its own with copies of two models."""
    original = needs.default_settings().models_dir
    copy = tmp_path_factory.mktemp("models")
    for name in (SMALLEST, OTHER):
        artefact = model_store.find(name).directory
        shutil.copytree(artefact, copy / artefact.relative_to(original))
        manifest = Layout(original).manifests / f"{key_of(name)}.json"
        target = copy / manifest.relative_to(original)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(manifest, target)
    return copy


@pytest.fixture(scope="module")
def client(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """One server for all: it has to live on through every fault."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("INGLE_", "OLLAMA_"))}
    settings = {"INGLE_MODELS_DIR": str(models_dir), "INGLE_DATA_DIR": str(tmp_path_factory.mktemp("data"))}
    with (
        Server(environment=environment | settings) as server,
        httpx2.Client(base_url=server.url, timeout=120.0, trust_env=False) as client,
    ):
        yield client
        assert server.is_running


@pytest.fixture
def weights(models_dir: Path) -> Iterator[Path]:
    """The file with the smallest model's weights; whole again after the test."""
    (path,) = models_dir.rglob("*.gguf")
    whole = path.read_bytes()
    yield path
    path.write_bytes(whole)


def flip_a_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0xFF]))


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.weights(SMALLEST, OTHER)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("damage", [flip_a_byte, cut_in_half, empty, Path.unlink])
def test_damaged_weights_are_named_and_harm_nobody_else(
    client: httpx2.Client, models_dir: Path, weights: Path, damage: Callable[[Path], None], audio_dir: Path
) -> None:
    damage(weights)

    for path, body in (
        ("/load-model", {"model_id": SMALLEST}),
        ("/generate", {"model": SMALLEST, "prompt": "Hello", "max_tokens": 4}),
    ):
        failure = client.post(path, json=body)
        problem = failure.json()
        assert (failure.status_code, problem["code"]) == (500, "model_load_failed")
        assert weights.name in problem["detail"]
        assert f"ingle models pull {SMALLEST}" in problem["detail"]
        assert str(models_dir) not in failure.text

    assert client.get(f"/models/{SMALLEST}").json()["state"] == "failed"
    assert client.get("/health").json()["status"] in ("healthy", "degraded")
    heard = client.post("/transcribe", files={"file": (audio_dir / "jfk.wav").read_bytes()}).raise_for_status().json()
    assert "ask not what your country can do for you" in heard["text"]


@pytest.mark.weights(SMALLEST, OTHER)
@pytest.mark.timeout(300)
def test_weights_that_are_whole_again_load_without_a_restart(client: httpx2.Client, weights: Path) -> None:
    flip_a_byte(weights)
    assert client.post("/load-model", json={"model_id": SMALLEST}).status_code == 500
    flip_a_byte(weights)
    answer = client.post("/generate", json={"model": SMALLEST, "prompt": "Hello", "max_tokens": 4})
    assert answer.raise_for_status().json()["eval_count"] == 4
    assert client.get(f"/models/{SMALLEST}").json()["state"] == "loaded"
    client.post("/unload-model", json={"model_id": SMALLEST}).raise_for_status()


@pytest.mark.weights(SMALLEST, OTHER)
@pytest.mark.timeout(300)
def test_a_damaged_copy_of_the_engine_s_own_is_made_anew(client: httpx2.Client, models_dir: Path) -> None:
    request = {"model": SMALLEST, "prompt": "Count to five.", "max_tokens": 8, "options": {"temperature": 0}}
    before = client.post("/generate", json=request).raise_for_status().json()["response"]
    client.post("/unload-model", json={"model_id": SMALLEST}).raise_for_status()
    (copy,) = Layout(models_dir).converted.glob("*/weights.safetensors")
    whole = hash_of(copy)
    flip_a_byte(copy)
    assert client.post("/generate", json=request).raise_for_status().json()["response"] == before
    assert hash_of(copy) == whole
    client.post("/unload-model", json={"model_id": SMALLEST}).raise_for_status()

"""A model's memory comes back when it is unloaded, as the operating system counts it."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from benchmarks.server import Server
from tests import needs

MODEL = "qwen2.5-coder:0.5b"
MB = 1_000_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("INGLE_", "OLLAMA_"))}
    settings = {"INGLE_MODELS_DIR": str(needs.default_settings().models_dir), "INGLE_DATA_DIR": str(tmp_path)}
    with Server(environment=environment | settings) as server:
        yield server


def resident_bytes(server: Server) -> int:
    return int(psutil.Process(server.pid).memory_info().rss)


@pytest.mark.weights(MODEL)
@pytest.mark.timeout(300)
def test_the_memory_of_a_model_comes_back_every_time(server: Server) -> None:
    with httpx2.Client(base_url=server.url, timeout=120.0, trust_env=False) as client:
        before = resident_bytes(server)
        for _ in range(2):
            loaded = client.post("/load-model", json={"model_id": MODEL}).raise_for_status().json()
            answer = client.post("/generate", json={"model": MODEL, "prompt": "Count to ten.", "max_tokens": 16})
            assert answer.raise_for_status().json()["eval_count"] > 0
            in_use = resident_bytes(server)
            assert in_use - before > 400 * MB
            assert loaded["memory_bytes"] > 400 * MB

            gone = client.post("/unload-model", json={"model_id": MODEL}).raise_for_status().json()
            after = resident_bytes(server)
            assert after - before < 150 * MB, f"{(after - before) / MB:.0f} MB stayed behind"
            assert gone["status"] == "unloaded"
            assert gone["freed_bytes"] == pytest.approx(in_use - after, abs=100 * MB)

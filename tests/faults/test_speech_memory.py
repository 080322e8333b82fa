"""A speech model that leaves memory and comes back; and, in a thorough run, an hour in one file."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from benchmarks import speech_hour
from benchmarks.server import Server
from benchmarks.spoken import joined
from tests import needs

MODEL = "whisper:base"
TEXT_MODEL = "qwen2.5-coder:0.5b"
CLIP = "sense_and_sensibility_01_austen_64kb-0880.wav"
TIMES = 10
# So many pay for what stays: libraries, the voice detector, room of the threads that take turns.
FIRST = 3
THOROUGH = float(os.environ.get("INGLE_SOAK_SECONDS", "0")) >= 300

pytestmark = pytest.mark.weights(MODEL)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("INGLE_", "OLLAMA_"))}
    settings = {
        "INGLE_MODELS_DIR": str(needs.default_settings().models_dir),
        "INGLE_DATA_DIR": str(tmp_path),
        "INGLE_KEEP_ALIVE": "50ms",
    }
    with Server(environment=environment | settings) as server:
        yield server


def until_it_has_left(client: httpx2.Client) -> None:
    while client.get(f"/models/{MODEL}").raise_for_status().json()["state"] != "installed":
        time.sleep(0.02)


@pytest.mark.timeout(120)
def test_a_model_that_leaves_when_it_is_idle_comes_back_the_same_and_memory_does_not_grow(
    server: Server, audio_dir: Path
) -> None:
    process = psutil.Process(server.pid)
    texts, held = [], []
    clip = (audio_dir / CLIP).read_bytes()
    with httpx2.Client(base_url=server.url, timeout=60.0, trust_env=False) as client:
        for _ in range(FIRST + TIMES):
            answer = client.post("/transcribe", files={"file": clip}, data={"language": "en"})
            texts.append(answer.raise_for_status().json()["text"])
            until_it_has_left(client)
            held.append(process.memory_info().rss)
    assert set(texts) == {texts[0]}
    assert "disposed young man" in texts[0]
    held = held[FIRST - 1 :]
    assert max(held) - held[0] <= 0.05 * held[0], held


@pytest.mark.skipif(not THOROUGH, reason="an hour of speech takes minutes: INGLE_SOAK_SECONDS=300 asks for it")
@pytest.mark.weights(MODEL, TEXT_MODEL)
@pytest.mark.timeout(900)
def test_an_hour_in_one_file_takes_bounded_memory_and_leaves_others_alone(
    server: Server, audio_dir: Path, tmp_path: Path
) -> None:
    file = joined(audio_dir, 3600.0).flac(tmp_path / "hour.flac")
    with httpx2.Client(base_url=server.url, timeout=60.0, trust_env=False) as client:
        for name in (MODEL, TEXT_MODEL):
            client.post("/load-model", json={"model": name, "keep_alive": -1}).raise_for_status()
        for clip in audio_dir.glob("*.wav"):
            client.post("/transcribe", files={"file": clip.read_bytes()}).raise_for_status()
    figures = speech_hour.measure(server.url, server.pid, MODEL, TEXT_MODEL, file, "an hour")
    assert [figure for figure in figures if not figure.is_met] == []

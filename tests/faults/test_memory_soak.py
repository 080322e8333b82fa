"""Four real models in memory for about two: everybody is answered, nothing grows, everything comes back.

INGLE_SOAK_SECONDS says for how long: 15 by default, 300 for a thorough run, which also makes 50 loads and unloads.
"""

import asyncio
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from benchmarks.server import Server
from tests import needs

LARGE, SMALL, SPEECH, VECTORS = "qwen2.5-coder:0.5b", "smollm2:135m", "whisper:base", "all-minilm-l6-v2"
SECONDS = float(os.environ.get("INGLE_SOAK_SECONDS", "15"))
CYCLES = 50 if SECONDS >= 300 else 10
CLIENTS = 4
MB = 1_000_000
# The server itself takes about 550 MB of it; the large model and one other fit beside that.
BUDGET_GB = 1.45
BUDGET = BUDGET_GB * (1 << 30)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("INGLE_", "OLLAMA_"))}
    settings = {
        "INGLE_MODELS_DIR": str(needs.default_settings().models_dir),
        "INGLE_DATA_DIR": str(tmp_path),
        "INGLE_MEMORY_BUDGET_GB": str(BUDGET_GB),
        "INGLE_MIN_MEMORY_GB": "0",
        "INGLE_MAX_MEMORY_USAGE": "1",
        "INGLE_DEVICE_MAX_HOLD": "120s",
    }
    with Server(environment=environment | settings) as server:
        yield server


@pytest.fixture
async def client(server: Server) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=server.url, timeout=300.0, trust_env=False)


@dataclass
class Watch:
    """The most memory that the process was seen to have."""

    process: psutil.Process
    peak: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def now(self) -> int:
        return int(self.process.memory_info().rss)

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield
        finally:
            self.over.set()
            thread.join()

    def _look(self) -> None:
        while not self.over.wait(0.02):
            self.peak = max(self.peak, self.now())


def content(response: httpx2.Response) -> Any:
    """What was answered, if it is an answer."""
    assert response.is_success, response.text
    return response.json()


async def one_request(client: httpx2.AsyncClient, dice: random.Random, audio: bytes) -> str:
    """A request for one of the models, whose answer is looked at."""
    model = dice.choice((LARGE, SMALL, SPEECH, VECTORS))
    if model == SPEECH:
        files = {"file": ("jfk.mp3", audio, "audio/mpeg")}
        answer = content(await client.post("/transcribe", files=files, data={"model": model}))
        assert "country" in answer["text"]
    elif model == VECTORS:
        texts = {"model": model, "input": ["a short text", "another one"]}
        answer = content(await client.post("/v1/embeddings", json=texts))
        assert len(answer["data"]) == 2
    else:
        prompt = {"model": model, "prompt": "Count to ten.", "max_tokens": dice.randint(1, 12)}
        answer = content(await client.post("/generate", json=prompt))
        assert answer["eval_count"] >= 1
    return model


async def keep_asking(client: httpx2.AsyncClient, seed: int, until: float, audio: bytes) -> Counter[str]:
    dice = random.Random(seed)
    served: Counter[str] = Counter()
    while time.monotonic() < until or not served:
        served[await one_request(client, dice, audio)] += 1
    return served


@pytest.mark.weights(LARGE, SMALL, SPEECH, VECTORS)
@pytest.mark.timeout(SECONDS * 2 + 300)
async def test_four_models_share_memory_for_two(server: Server, client: httpx2.AsyncClient, audio_dir: Path) -> None:
    audio = (audio_dir / "jfk.mp3").read_bytes()
    watch = Watch(psutil.Process(server.pid))
    before = watch.now()
    async with client:
        with watch.watching():
            until = time.monotonic() + SECONDS
            counts = await asyncio.gather(*(keep_asking(client, seed, until, audio) for seed in range(CLIENTS)))
            # Each of the four in turn, so that a short run too has to swap.
            for seed, _ in enumerate((LARGE, SPEECH, SMALL, VECTORS)):
                await one_request(client, random.Random(seed), audio)
        usage = (await client.get("/memory-usage")).json()
        served = sum(counts, Counter())
        assert usage["last_swap"] is not None, f"nobody had to leave: {served}, {usage}"
        assert watch.peak < BUDGET * 1.1, f"{watch.peak / MB:.0f} MB for {served}"

        await client.post("/unload-model", json={"model_id": "all"})
        after = watch.now()
        print(  # noqa: T201 — the figures of a soak, with -s
            f"{sum(served.values())} answers {dict(served)}; start {before / MB:.0f} MB, "
            f"peak {watch.peak / MB:.0f} MB of {BUDGET / MB:.0f} MB, all unloaded {after / MB:.0f} MB"
        )
        assert after - before < 200 * MB, f"{(after - before) / MB:.0f} MB stayed behind: {served}"


@pytest.mark.weights(SMALL)
@pytest.mark.timeout(600)
async def test_loading_and_unloading_again_and_again_leaks_nothing(server: Server, client: httpx2.AsyncClient) -> None:
    async with client:
        process = psutil.Process(server.pid)
        sizes = []
        for _ in range(CYCLES + 3):
            content(await client.post("/load-model", json={"model_id": SMALL}))
            content(await client.post("/unload-model", json={"model_id": SMALL}))
            sizes.append(process.memory_info().rss)
        # The first ones bring in what stays: libraries, vocabularies, the allocators' arenas.
        growth = sizes[-1] - sizes[2]
        print(f"{CYCLES} loads: {sizes[2] / MB:.0f} MB before, {sizes[-1] / MB:.0f} MB after")  # noqa: T201
        assert growth < 50 * MB, f"{growth / MB:.1f} MB more after {CYCLES} loads: {[size // MB for size in sizes]}"

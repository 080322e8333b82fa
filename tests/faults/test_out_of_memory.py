"""Memory that really runs out, in a process that may have only so much of it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.models.tiny import save_tiny
from tests.models.tiny_encoder import save_encoder

MIB = 1 << 20
LOAD = """
import asyncio, json, os, resource, sys
from pathlib import Path

import psutil
import torch

torch.set_num_threads(1)
from application.events import ModelUnloaded, SwapFailed
from application.model_pool import ModelPool
from domain.errors import IngleError
from domain.model import LoadOptions, Task
from infrastructure.clock import SystemClock
from models.budget import BudgetPolicy
from models.catalog import Catalog
from models.repository import LoadPolicy, OptimizedModelRepository
from models.speech.decoder import AudioDecoder
from models.store import ModelStore
from tests.models.talking import ask, collect_all

MIB = 1 << 20


async def main(folder, name, options):
    policy = LoadPolicy(cpu_threads=1, budget=BudgetPolicy(min_free_bytes=0, max_usage=1.0))
    repository = OptimizedModelRepository(ModelStore(folder, Catalog.load(), {}), AudioDecoder(processes=1), policy)
    events = []
    pool = ModelPool(repository, SystemClock(), events.append)
    attempts = []
    found = {}
    await pool.load("idle")
    async with pool.lend("small", Task.TEXT) as small:
        found["before"] = await collect_all(small.generate(ask(8)))
        process = psutil.Process()
        held = process.memory_info().rss
        limit = process.memory_info().vms + 64 * MIB
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        try:
            await pool.load(name, options, on_progress=lambda step: step.stage == "read" and attempts.append(step))
        except IngleError as error:
            found["code"], found["message"] = error.code, str(error)
        found["attempts"] = sum(not step.completed for step in attempts)
        found["after"] = await collect_all(small.generate(ask(8)))
        found["grown"] = process.memory_info().rss - held
        found["left"] = [event.model_id for event in events if isinstance(event, ModelUnloaded)]
        await pool.load("idle")
        found["returning"] = [event.returning for event in events if isinstance(event, SwapFailed)]
        found["residents"] = [resident.spec.id for resident in pool.residents()]
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    model, _ = await pool.load(name, options)
    found["loaded"] = model.is_loaded
    await pool.close()
    repository.close()
    print(json.dumps(found), flush=True)


for story in json.loads(sys.argv[2]):
    child = os.fork()
    if child == 0:
        asyncio.run(main(Path(sys.argv[1]), story[0], LoadOptions(**story[1])))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, story
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small text model and an encoder that fit, and large ones that do not."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny(folder / "small", talks=True)
    save_tiny(folder / "big", vocab_size=600_000)
    save_encoder(folder / "idle")
    save_encoder(folder / "wide", vocab_size=600_000)
    return folder


STORIES: dict[str, tuple[str, dict[str, str]]] = {
    "as it lies on disk": ("big", {"quantization": "none", "dtype": "float32"}),
    "in its conversion": ("big", {"quantization": "int8"}),
    "an encoder": ("wide", {"dtype": "float32"}),
}


@pytest.fixture(scope="module")
def stories(folder: Path) -> dict[str, dict[str, Any]]:
    """What happened to each load in a process with 64 MiB of addresses left."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, folder, json.dumps(list(STORIES.values()))],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=100,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return dict(zip(STORIES, map(json.loads, result.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("story", STORIES)
def test_a_load_that_runs_out_of_memory_frees_tries_once_more_and_fails_alone(
    stories: dict[str, dict[str, Any]], story: str
) -> None:
    found = stories[story]
    assert found["code"] == "insufficient_memory"
    assert "ran out of memory twice" in found["message"]
    assert "choose a smaller model" in found["message"]
    assert found["attempts"] == 2
    assert found["left"] == ["idle"], "it left for the second try, and who was busy stayed"
    assert (found["returning"], found["residents"]) == ([["idle"]], ["small", "idle"]), "it came back"
    assert found["after"] == found["before"]
    assert found["grown"] < 48 * MIB, "what the load had taken came back"
    assert found["loaded"], "with memory to spare it loads"

"""The same work on whatever device there is: what a GPU computes, keeps and gives back is what a CPU does."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from domain.constraint import Choice
from domain.model import LoadOptions
from domain.prompt import RawText
from models.text.engine import TextEngine
from models.text.placement import place_text
from tests.models.running import Bench, load_tiny
from tests.models.talking import ask, collect, collect_all, idle, talking
from tests.models.tiny import save_tiny, tiny_model

DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)]
IDS = [(21 + 3 * place + place * place) % 500 for place in range(71)]
GPT_OSS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 24}


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engine(device: str, tmp_path: Path) -> Iterator[TextEngine]:
    with talking(save_tiny(tmp_path / "model", talks=True), device=device) as engine:
        yield engine


@pytest.mark.parametrize("family", ["qwen2", "mistral", "gemma2", "olmo2", "gpt_oss"])
def test_logits_equal_those_of_transformers_on_any_device(family: str, device: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = GPT_OSS if family == "gpt_oss" else {}
    where = torch.device(device)
    loaded = load_tiny(save_tiny(tmp_path / "model", family, **changes), device=where)
    with torch.inference_mode():
        expected = torch.nn.Module.__call__(tiny_model(family, **changes), input_ids=torch.tensor([IDS])).logits[0]
    assert torch.allclose(Bench(loaded, device=where).logits_of(IDS).cpu(), expected, atol=1e-3, rtol=1e-3)


async def test_wishes_of_every_kind_are_granted_on_any_device(engine: TextEngine, device: str) -> None:
    assert engine.info.device == device
    texts = await collect_all(engine.generate(replace(ask(6, temperature=1.0, seed=4, top_p=0.9), n=3)))
    assert len(set(texts)) > 1
    penalties: dict[str, Any] = {"repetition_penalty": 1.3, "presence_penalty": 1.0, "logit_bias": ((40, 2.0),)}
    await collect(engine.generate(ask(6, temperature=0.8, seed=1, min_p=0.05, typical_p=0.9, **penalties)))
    chosen, _ = await collect(engine.generate(replace(ask(20), constraint=Choice(("yes", "no")))))
    assert chosen in ("yes", "no")
    chunks = [chunk async for chunk in engine.generate(replace(ask(4, logprobs=2), prompt_logprobs=2))]
    assert len(chunks[0].prompt) == 16
    assert sum(len(chunk.logprobs) for chunk in chunks) == 4
    vectors = (await engine.embed(["one", "two", "one"])).vectors
    assert vectors[0].tolist() == pytest.approx(vectors[2].tolist(), abs=1e-2)
    await idle(engine)


async def test_the_same_seed_gives_the_same_text_on_any_device(engine: TextEngine) -> None:
    request = ask(20, temperature=1.0, seed=11)
    assert (await collect(engine.generate(request)))[0] == (await collect(engine.generate(request)))[0]


async def test_cancelled_streams_leave_nothing_behind_on_any_device(engine: TextEngine) -> None:
    async with aclosing(engine.generate(ask(300))) as leaving:
        await anext(leaving)
        staying = asyncio.create_task(collect(engine.generate(ask(10, RawText("stay")))))
        await anext(leaving)
    assert len((await staying)[0]) == 10
    await idle(engine)


@pytest.mark.gpu
def test_a_gpu_computes_in_bfloat16_where_it_can_and_else_in_float16() -> None:
    placement = place_text(LoadOptions(device="cuda"))
    expected = "bfloat16" if torch.cuda.get_device_capability()[0] >= 8 else "float16"
    assert (str(placement.device), placement.dtype, placement.quantization) == ("cuda:0", expected, "none")

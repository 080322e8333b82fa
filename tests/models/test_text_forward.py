"""What the engine computes is what transformers computes, alone, in company, and after every disturbance."""

from pathlib import Path
from typing import Any

import pytest
import torch

from domain.generation import SamplingParams
from models.text.scheduler import Limits
from tests.models.running import Bench, load_tiny
from tests.models.tiny import FAMILIES, save_tiny, tiny_model

PROMPTS = [[(7 * i + 3 * j + j * j) % 500 for j in range(length)] for i, length in enumerate((5, 33, 64, 71, 1, 100))]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_those_of_transformers(family: str, tmp_path: Path) -> None:
    loaded = load_tiny(save_tiny(tmp_path / "model", family))
    ids = PROMPTS[3]
    with torch.inference_mode():
        expected = torch.nn.Module.__call__(tiny_model(family), input_ids=torch.tensor([ids])).logits[0]
    assert torch.allclose(Bench(loaded).logits_of(ids), expected, atol=1e-4, rtol=1e-4)
    assert (loaded.layers == "fused") == (family in ("qwen2", "qwen3", "llama", "mistral"))


@pytest.mark.parametrize("family", ["qwen2", "mistral", "gemma3_text"])
def test_greedy_text_equals_that_of_transformers(family: str, tmp_path: Path) -> None:
    loaded = load_tiny(save_tiny(tmp_path / "model", family))
    generate: Any = tiny_model(family).generate
    for ids in PROMPTS[:4]:
        prompt = torch.tensor([ids])
        options = {"max_new_tokens": 40, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        generated = generate(prompt, attention_mask=torch.ones_like(prompt), **options)[0, len(ids) :]
        assert Bench(loaded).run([Bench(loaded).sequence(ids, 40)]) == [generated.tolist()]


@pytest.mark.parametrize("int8", [False, True])
def test_a_request_gets_the_same_tokens_alone_and_in_company(int8: bool, tmp_path: Path) -> None:
    model = load_tiny(save_tiny(tmp_path / "model"), int8=int8)
    seeded = SamplingParams(temperature=0.9, top_p=0.95, seed=5)
    alone = [Bench(model).run([Bench(model).sequence(ids, 24, seeded)])[0] for ids in PROMPTS]
    bench = Bench(model, blocks=256)
    assert bench.run([bench.sequence(ids, 24, seeded) for ids in PROMPTS]) == alone
    assert bench.largest_step >= 5


def test_a_preempted_sequence_goes_on_where_it_was(tmp_path: Path) -> None:
    model = load_tiny(save_tiny(tmp_path / "model"))
    alone = [Bench(model).run([Bench(model).sequence(ids, 40)])[0] for ids in PROMPTS[:4]]
    tight = Bench(model, blocks=24, limits=Limits(chunk=32, max_prefill_tokens=64))
    assert tight.run([tight.sequence(ids, 40) for ids in PROMPTS[:4]]) == alone
    assert tight.scheduler.preemptions > 0


def test_a_shared_prefix_is_not_computed_again_and_changes_nothing(tmp_path: Path) -> None:
    model = load_tiny(save_tiny(tmp_path / "model"))
    prefix = PROMPTS[5]
    fresh = Bench(model).run([Bench(model).sequence([*prefix, 9, 9], 20)])
    bench = Bench(model)
    bench.run([bench.sequence([*prefix, 8], 4)])
    second = bench.sequence([*prefix, 9, 9], 20)
    assert bench.run([second]) == fresh
    assert second.cached == len(prefix) // 8 * 8


def test_scattered_blocks_hold_the_same_text_as_blocks_in_a_row(tmp_path: Path) -> None:
    model = load_tiny(save_tiny(tmp_path / "model"))
    expected = Bench(model).run([Bench(model).sequence(PROMPTS[3], 20)])
    bench = Bench(model)
    # Two sequences grow in turns, so neither finds its next block beside its last one.
    both = bench.run([bench.sequence(PROMPTS[3], 20), bench.sequence(PROMPTS[1], 60)])
    assert both[0] == expected[0]


def test_int8_products_stay_close_to_the_weights_they_come_from(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "model")
    exact = Bench(load_tiny(directory)).logits_of(PROMPTS[1])
    rounded = Bench(load_tiny(directory, int8=True)).logits_of(PROMPTS[1])
    assert torch.nn.functional.cosine_similarity(exact, rounded).min() > 0.99


@pytest.mark.parametrize("name", ["weights.safetensors", "tokenizer.json", "complete.json"])
def test_a_damaged_converted_copy_is_made_anew(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = save_tiny(tmp_path / "model")
    expected = Bench(load_tiny(directory, int8=True)).logits_of(PROMPTS[0])
    damaged = next(tmp_path.glob("converted/*/")) / name
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(content)
    again = load_tiny(directory, int8=True)
    assert again.converted_seconds > 0.0
    assert torch.equal(Bench(again).logits_of(PROMPTS[0]), expected)
    assert "made anew" in caplog.text


def test_the_second_load_reads_the_converted_copy(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "model")
    first = load_tiny(directory, int8=True)
    second = load_tiny(directory, int8=True)
    assert first.converted_seconds > 0.0 == second.converted_seconds
    assert torch.equal(Bench(first).logits_of(PROMPTS[0]), Bench(second).logits_of(PROMPTS[0]))

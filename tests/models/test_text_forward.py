"""What the engine computes is what transformers computes, alone, in company, and after every disturbance."""

from pathlib import Path
from typing import Any

import pytest
import torch

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

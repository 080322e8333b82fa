"""The native kernels compute what the same int8 weights give in PyTorch, for everybody alone and in company."""

from pathlib import Path
from typing import Any

import pytest
import torch

from models.text.linear import Int8Linear
from models.text.native.arena import Arena
from models.text.native.choice import greatest
from models.text.native.library import library, why_not
from models.text.native.product import Product, room_of
from models.text.native.team import Team
from models.text.scheduler import Limits
from models.text.weights import LoadedWeights
from tests.models.running import Bench, load_tiny
from tests.models.tiny import save_tiny

pytestmark = pytest.mark.skipif(library() is None, reason=f"needs native kernels: {why_not()}")

FAMILIES = ("qwen2", "qwen3", "llama", "mistral")
PROMPTS = [[(7 * i + 3 * j + j * j) % 500 for j in range(length)] for i, length in enumerate((5, 33, 64, 71, 1, 100))]


def native(directory: Path) -> LoadedWeights:
    loaded = load_tiny(directory, int8=True, native=True)
    assert loaded.layers == "native", loaded.why
    return loaded


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_same_weights_in_torch(family: str, tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "model", family)
    expected = Bench(load_tiny(directory, int8=True)).logits_of(PROMPTS[3])
    logits = Bench(native(directory)).logits_of(PROMPTS[3])
    # The cache in bfloat16 is the only thing that is rounded more here than there.
    assert torch.nn.functional.cosine_similarity(logits, expected).min() > 0.999
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 48},
        {"num_attention_heads": 12, "num_key_value_heads": 1},
        {"head_dim": 128, "hidden_size": 80, "intermediate_size": 208},
        {"tie_word_embeddings": True},
        {"vocab_size": 520},
    ],
    ids=str,
)
def test_shapes_that_fill_no_vector_or_group_are_computed_too(changes: dict[str, Any], tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "model", "qwen2", **changes)
    expected = Bench(load_tiny(directory, int8=True)).logits_of(PROMPTS[1])
    logits = Bench(native(directory)).logits_of(PROMPTS[1])
    assert torch.nn.functional.cosine_similarity(logits, expected).min() > 0.999


def test_a_prompt_read_in_chunks_gives_the_same_logits_to_the_last_bit(tmp_path: Path) -> None:
    loaded = native(save_tiny(tmp_path / "model"))
    ids = PROMPTS[5] + PROMPTS[3]
    logits = []
    for chunk in (16, 32, 256):
        bench = Bench(loaded, limits=Limits(chunk=chunk, max_prefill_tokens=chunk))
        sequence = bench.sequence(ids, 1)
        bench.scheduler.add(sequence)
        while sequence.new_tokens == 0:
            last = bench.step()
        logits.append(last)
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


@pytest.mark.parametrize("alike", [1, 16, 29, 40, 63])
def test_what_another_prompt_had_in_common_is_not_read_again_and_changes_no_bit(alike: int, tmp_path: Path) -> None:
    loaded = native(save_tiny(tmp_path / "model"))
    other = [*PROMPTS[3][:alike], *(499 - token for token in PROMPTS[3][alike:])]
    logits = []
    for before in ((), (PROMPTS[3],)):
        bench = Bench(loaded)
        bench.run([bench.sequence(ids, 3) for ids in before])
        sequence = bench.sequence(other, 1)
        bench.scheduler.add(sequence)
        while sequence.new_tokens == 0:
            last = bench.step()
        logits.append(last)
    assert sequence.cached == alike
    assert torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 9, 130])
def test_products_of_whole_numbers_are_exact(rows: int) -> None:
    """Every row of activations is a row of whole numbers up to 127, so rounding loses nothing."""
    weight = torch.randint(-127, 128, (70, 64), dtype=torch.int8)
    weight[0] = 127
    bias = torch.arange(70.0)
    part = Int8Linear(weight.clone(), torch.ones(70), bias)
    x = torch.randint(-127, 128, (rows, 64)).float()
    x[0] = 127
    x[:, 3] = -127
    product = Product([part], Arena(room_of([part])))
    assert torch.equal(product.multiply(Team(2), x)[:, :70], x @ weight.float().T + bias)


def test_a_great_input_takes_no_digits_from_other_groups() -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randint(-127, 128, (64, 96), generator=generator).to(torch.int8)
    part = Int8Linear(weight.clone(), torch.ones(64), None)
    product = Product([part], Arena(room_of([part])), group=32)
    x = torch.randint(-127, 128, (9, 96), generator=generator).float()
    x[:, [0, 32, 64]] = 127
    expected = x @ weight.float().T
    assert torch.equal(product.multiply(Team(2), x), expected)
    x[:, 32:64] *= 2**20  # with one scale for all, the others would be rounded to nothing
    great = x[:, 32:64] @ weight[:, 32:64].float().T
    small = product.multiply(Team(2), x).double() - great.double()
    assert (small - (expected.double() - great.double() / 2**20)).abs().max() <= great.abs().max() * 2**-23


@pytest.mark.parametrize("count", [1, 15, 255, 256, 257, 520, 151_936])
def test_the_greatest_number_is_that_of_torch(count: int) -> None:
    rows = torch.randn(5, count, generator=torch.Generator().manual_seed(count))
    rows[1] = rows[1].round()
    rows[2, count // 2] = float("nan")
    rows[3] = float("-inf")
    rows[4, -1] = float("inf")
    number, place = greatest(rows)
    expected, _ = rows.max(dim=1)
    assert torch.equal(number.nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))
    for row in (0, 1, 3, 4):
        assert place[row] == (rows[row] == expected[row]).nonzero()[0]


@pytest.mark.parametrize("at", [0, 255, 256, 511, 512, 519])
def test_the_greatest_number_is_found_wherever_it_stands(at: int) -> None:
    rows = torch.zeros(3, 520)
    rows[0, at] = 1.0
    rows[1, at:] = 1.0
    rows[2, at] = float("nan")
    number, place = greatest(rows)
    assert number[:2].tolist() == [1.0, 1.0] and number[2].isnan()
    assert place[:2].tolist() == [at, at]


def test_numbers_that_are_none_stay_none() -> None:
    part = Int8Linear(torch.ones(32, 64, dtype=torch.int8), torch.ones(32), None)
    product = Product([part], Arena(room_of([part])))
    x = torch.ones(3, 64)
    x[1, 5], x[2, 7] = float("nan"), float("inf")
    assert product.multiply(Team(2), x).isfinite().all(dim=1).tolist() == [True, False, False]


def test_what_the_cache_held_before_does_not_matter(tmp_path: Path) -> None:
    """Blocks are given out again as they are; numbers beyond a sequence's end may even be no numbers."""
    loaded = native(save_tiny(tmp_path / "model"))
    expected = Bench(loaded).run([Bench(loaded).sequence(PROMPTS[1], 20)])
    bench = Bench(loaded)
    for layer in bench.cache._layers:
        layer.fill_(float("nan"))
    assert bench.run([bench.sequence(PROMPTS[1], 20)]) == expected

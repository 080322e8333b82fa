"""The native kernels compute what the same int8 weights give in PyTorch, for everybody alone and in company."""

from pathlib import Path
from typing import Any

import pytest
import torch

from domain.generation import SamplingParams
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


@pytest.mark.parametrize("family", ["qwen2", "mistral"])
def test_a_request_gets_the_same_tokens_alone_and_in_company(family: str, tmp_path: Path) -> None:
    loaded = native(save_tiny(tmp_path / "model", family))
    seeded = SamplingParams(temperature=0.9, top_p=0.95, seed=5)
    alone = [Bench(loaded).run([Bench(loaded).sequence(ids, 24, seeded)])[0] for ids in PROMPTS]
    bench = Bench(loaded, blocks=256)
    assert bench.run([bench.sequence(ids, 24, seeded) for ids in PROMPTS]) == alone
    assert bench.largest_step >= 5


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


def test_a_preempted_sequence_goes_on_where_it_was(tmp_path: Path) -> None:
    loaded = native(save_tiny(tmp_path / "model"))
    alone = [Bench(loaded).run([Bench(loaded).sequence(ids, 40)])[0] for ids in PROMPTS[:4]]
    tight = Bench(loaded, blocks=14)
    assert tight.run([tight.sequence(ids, 40) for ids in PROMPTS[:4]]) == alone
    assert tight.scheduler.preemptions > 0


def test_a_shared_prefix_changes_nothing(tmp_path: Path) -> None:
    loaded = native(save_tiny(tmp_path / "model"))
    fresh = Bench(loaded).run([Bench(loaded).sequence([*PROMPTS[5], 9, 9], 20)])
    bench = Bench(loaded)
    bench.run([bench.sequence([*PROMPTS[5], 8], 4)])
    second = bench.sequence([*PROMPTS[5], 9, 9], 20)
    assert bench.run([second]) == fresh
    assert second.cached == len(PROMPTS[5]) // 16 * 16


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


@pytest.mark.parametrize("count", [1, 15, 16, 17, 520, 151_936])
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
    bench.cache._rows.fill_(float("nan"))
    assert bench.run([bench.sequence(PROMPTS[1], 20)]) == expected

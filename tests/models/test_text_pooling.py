"""A text model's vector of a text is transformers' last hidden state of its last token."""

import asyncio
from array import array
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from domain.errors import GenerationFailed, Overloaded, RequestCancelled
from domain.prompt import RawText
from models.text.native.library import library, why_not
from tests.models.running import Bench, load_tiny
from tests.models.talking import ask, collect, entered, gated, idle, talking
from tests.models.tiny import FAMILIES, save_tiny, tiny_model

TEXTS = ("a", "Once upon a time", "there was a little girl who lived in a village near the forest, " * 2, "há é ã")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model")


def last_states(family: str, rows: list[list[int]]) -> torch.Tensor:
    """`[rows, width]`, as transformers' own model without its head gives them."""
    model = tiny_model(family).base_model
    with torch.inference_mode():
        return torch.stack([model(input_ids=torch.tensor([row])).last_hidden_state[0, -1] for row in rows])


@pytest.mark.parametrize("family", FAMILIES)
async def test_vectors_equal_those_of_transformers(family: str, tmp_path: Path) -> None:
    with talking(save_tiny(tmp_path / "model", family)) as engine:
        rows = [list(await engine.encode(RawText(text))) for text in TEXTS]
        expected = last_states(family, rows)
        plain = await engine.embed(TEXTS, normalize=False)
        unit = await engine.embed(TEXTS)
        cut = await engine.embed(TEXTS, dimensions=10)
        await idle(engine)
    assert plain.token_counts == tuple(map(len, rows))
    assert torch.allclose(torch.tensor(plain.vectors), expected, atol=1e-4, rtol=1e-4)
    assert torch.allclose(torch.tensor(unit.vectors), functional.normalize(expected), atol=1e-4)
    assert torch.allclose(torch.tensor(cut.vectors), functional.normalize(expected[:, :10]), atol=1e-4)


def pooled(bench: Bench, rows: list[list[int]]) -> torch.Tensor:
    """`[rows, width]`: the vectors of all `rows`, read together."""
    sequences = [bench.sequence(row, 1) for row in rows]
    for sequence in sequences:
        sequence.pooled = array("f")
    bench.run(sequences)
    return torch.tensor([sequence.pooled for sequence in sequences])


@pytest.mark.skipif(library() is None, reason=f"needs native kernels: {why_not()}")
def test_the_kernels_give_what_the_same_int8_weights_give_in_torch(directory: Path) -> None:
    rows = [[(7 * i + 3 * j) % 500 for j in range(length)] for i, length in enumerate((5, 33, 70, 1))]
    loaded = load_tiny(directory, int8=True, native=True)
    assert loaded.layers == "native"
    bench = Bench(loaded)
    together = pooled(bench, rows)
    expected = pooled(Bench(load_tiny(directory, int8=True)), rows)
    assert functional.cosine_similarity(together, expected).min() > 0.999
    assert (together - expected).abs().max() < 0.05 * expected.abs().max()
    assert torch.equal(together, torch.cat([pooled(Bench(loaded), [row]) for row in rows]))
    assert torch.equal(together, pooled(bench, rows)), "a prefix from the cache changes nothing"


async def test_texts_and_answers_share_steps_and_do_not_disturb_each_other(directory: Path) -> None:
    with talking(directory) as engine:
        alone = await engine.embed(TEXTS)
        text, _ = await collect(engine.generate(ask(20)))
        embeddings, (again, _) = await asyncio.gather(engine.embed(TEXTS), collect(engine.generate(ask(20))))
        await idle(engine)
    assert again == text
    assert torch.allclose(torch.tensor(embeddings.vectors), torch.tensor(alone.vectors), atol=1e-6)


async def test_a_caller_with_one_text_does_not_wait_for_all_of_a_caller_with_many(directory: Path) -> None:
    with talking(directory) as engine:
        many = asyncio.create_task(engine.embed([f"text number {number}" for number in range(300)]))
        while engine.waiting == 0:  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0)
        await engine.embed(["a"])
        assert not many.done()
        assert len((await many).vectors) == 300
        await idle(engine)


async def test_whoever_leaves_takes_all_texts_along(directory: Path) -> None:
    with talking(directory) as engine:
        gate = gated(engine)
        gate.open.clear()
        task = asyncio.create_task(engine.embed([f"text number {number}" for number in range(100)]))
        await entered(gate)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open.set()
        await idle(engine)
        assert gate.tokens < 500


async def test_too_many_calls_are_refused_at_once_and_an_unload_ends_those_under_way(directory: Path) -> None:
    with talking(directory, max_waiting=1) as engine:
        gate = gated(engine)
        gate.open.clear()
        task = asyncio.create_task(engine.embed([f"text number {number}" for number in range(100)]))
        await entered(gate)
        with pytest.raises(Overloaded):
            await engine.embed(["three"])
        engine.abort()
        gate.open.set()
        with pytest.raises(RequestCancelled):
            await task
        await idle(engine)


async def test_numbers_that_are_none_fail_the_call(directory: Path) -> None:
    with talking(directory) as engine:
        gated(engine).poison = lambda logits: logits * float("nan")
        with pytest.raises(GenerationFailed):
            await engine.embed(["one", "two"])
        await idle(engine)

"""The embedding engine as its callers meet it: shared passes, cancels, overload, failures."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from domain.errors import (
    EngineUnavailable,
    GenerationFailed,
    InvalidRequest,
    Overloaded,
    RequestCancelled,
)
from models.embedding.encoder import Encoder
from models.embedding.engine import EmbeddingEngine
from models.inference_thread import InferenceThread
from tests.models.tiny_encoder import load_encoder, save_encoder, word_tokenizer, words


class Gate(Encoder):
    """Stands before an encoder: lets passes through, holds them, or makes them fail. `passes` has their sizes."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        self.passes: list[int] = []
        self.failure: Exception | None = None
        self.poison: Callable[[torch.Tensor], torch.Tensor] | None = None

    def vectors(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        self.passes.append(len(rows))
        self.entered.release()
        assert self.open.wait(20)
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        vectors = self._encoder.vectors(rows)
        return self.poison(vectors) if self.poison else vectors


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def engine(directory: Path) -> Iterator[EmbeddingEngine]:
    thread = InferenceThread("test")
    yield load_encoder(directory, thread)
    thread.close()


@pytest.fixture
def gate(engine: EmbeddingEngine) -> Iterator[Gate]:
    assert engine._encoder is not None
    gate = Gate(engine._encoder)
    engine._encoder = gate
    yield gate
    gate.open.set()


async def entered(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.entered.acquire, timeout=20)


async def idle(engine: EmbeddingEngine) -> None:
    """Until the owner thread has nothing left."""
    while await engine._thread.submit(lambda: len(engine._backlog)) or not engine._inbox.empty():
        pass
    assert (engine.waiting, len(engine._requests)) == (0, 0)


async def started(calls: int, engine: EmbeddingEngine) -> None:
    """One turn of the event loop: every call has got as far as it can without the owner thread."""
    await asyncio.sleep(0)
    assert len(engine._requests) == calls


# -- what is computed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["pooling_mode_mean_tokens", "pooling_mode_cls_token"])
async def test_vectors_are_those_of_the_formula(tmp_path: Path, pooling: str) -> None:
    directory = save_encoder(tmp_path / "model", pooling={pooling: True, "pooling_mode_max_tokens": False})
    thread = InferenceThread("test")
    texts = [words(5), words(40, 9), words(1), words(17, 90)]
    found = (await load_encoder(directory, thread).embed(texts)).vectors
    thread.close()
    model = AutoModel.from_pretrained(directory).eval()
    for text, vector in zip(texts, found, strict=True):
        with torch.inference_mode():
            states = model(input_ids=torch.tensor([word_tokenizer().encode(text).ids])).last_hidden_state[0]
        pooled = states.mean(0) if "mean" in pooling else states[0]
        assert (torch.nn.functional.normalize(pooled, dim=0) - torch.tensor(list(vector))).abs().max() < 1e-5


async def test_half_a_surrogate_pair_is_refused(engine: EmbeddingEngine) -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        await engine.embed(["w1", "w2 \ud800"])


async def test_many_and_long_texts_are_encoded_off_the_event_loop_and_in_order(engine: EmbeddingEngine) -> None:
    texts = [words(count % 60 + 1, count) for count in range(300)]
    vectors = (await engine.embed(texts)).vectors
    for place in (0, 123, 299):
        (alone,) = (await engine.embed([texts[place]])).vectors
        assert list(vectors[place]) == pytest.approx(list(alone), abs=1e-6)
    await idle(engine)


# -- sharing --------------------------------------------------------------------------------------------


async def test_callers_that_wait_at_the_same_time_share_a_pass(engine: EmbeddingEngine, gate: Gate) -> None:
    gate.open.clear()
    first = asyncio.create_task(engine.embed([words(5)]))
    await entered(gate)
    others = [asyncio.create_task(engine.embed([words(5, n)])) for n in range(5)]
    await started(6, engine)
    assert engine.waiting == 6
    gate.open.set()
    await asyncio.gather(first, *others)
    assert gate.passes == [1, 5]
    await idle(engine)


async def test_one_text_does_not_wait_for_all_of_a_caller_with_many(engine: EmbeddingEngine, gate: Gate) -> None:
    gate.open.clear()
    many = asyncio.create_task(engine.embed([words(30, n) for n in range(100)]))
    await entered(gate)
    one = asyncio.create_task(engine.embed([words(2)]))
    await started(2, engine)
    gate.open.set()
    await one
    assert not many.done()
    assert len(gate.passes) < 10
    await many
    assert sum(gate.passes) == 101
    await idle(engine)


# -- leaving --------------------------------------------------------------------------------------------


async def test_a_cancelled_call_is_not_read_any_more_and_others_go_on(engine: EmbeddingEngine, gate: Gate) -> None:
    gate.open.clear()
    working = asyncio.create_task(engine.embed([words(30, n) for n in range(100)]))
    await entered(gate)
    waiting = asyncio.create_task(engine.embed([words(30, n) for n in range(100)]))
    staying = asyncio.create_task(engine.embed([words(3)]))
    await started(3, engine)
    for leaving in (working, waiting):
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
    gate.open.set()
    await staying
    await idle(engine)
    # The pass under way, with two rows of the first, and the one of who stayed.
    assert gate.passes == [2, 1]


async def test_an_abort_ends_every_call_at_once_even_within_a_pass(engine: EmbeddingEngine, gate: Gate) -> None:
    gate.open.clear()
    calls = [asyncio.create_task(engine.embed([words(30)] * 2)) for _ in range(3)]
    await entered(gate)
    engine.abort()
    for call in calls:
        with pytest.raises(RequestCancelled):
            await call
    with pytest.raises(RequestCancelled):
        await engine.embed(["w1"])
    gate.open.set()
    await idle(engine)


async def test_a_closed_engine_says_so(engine: EmbeddingEngine) -> None:
    await engine.close()
    with pytest.raises(EngineUnavailable):
        await engine.embed(["w1"])


# -- overload -------------------------------------------------------------------------------------------


async def test_more_requests_than_may_be_in_flight_are_refused_at_once(engine: EmbeddingEngine, gate: Gate) -> None:
    gate.open.clear()
    calls = [asyncio.create_task(engine.embed(["w1"])) for _ in range(8)]
    await started(8, engine)
    with pytest.raises(Overloaded) as refused:
        await engine.embed(["w1"])
    assert 1.0 <= refused.value.retry_after_seconds <= 30.0
    gate.open.set()
    await asyncio.gather(*calls)
    await engine.embed(["w1"])
    await idle(engine)


async def test_beyond_the_tokens_that_may_wait_only_what_fits_into_one_pass_is_let_in(
    engine: EmbeddingEngine, gate: Gate
) -> None:
    gate.open.clear()
    # A request that finds nobody waiting is let in whatever its size: 480 tokens, where 400 may wait.
    large = asyncio.create_task(engine.embed([words(30)] * 15))
    await entered(gate)
    with pytest.raises(Overloaded, match="tokens"):
        await engine.embed([words(30)] * 3)
    small = asyncio.create_task(engine.embed([words(30)] * 2))
    await started(2, engine)
    gate.open.set()
    await asyncio.gather(large, small)
    await idle(engine)


# -- failing --------------------------------------------------------------------------------------------


async def test_a_failing_pass_fails_the_calls_that_it_served_and_the_engine_goes_on(
    engine: EmbeddingEngine, gate: Gate
) -> None:
    gate.open.clear()
    gate.failure = RuntimeError("no such tensor")
    failing = asyncio.create_task(engine.embed([words(30)] * 10))
    await entered(gate)
    waiting = asyncio.create_task(engine.embed([words(3)]))
    await started(2, engine)
    gate.open.set()
    with pytest.raises(GenerationFailed, match="RuntimeError"):
        await failing
    assert len((await waiting).vectors) == 1
    assert gate.passes == [2, 1]
    await idle(engine)


async def test_a_vector_that_is_not_made_of_numbers_fails_its_call_alone(engine: EmbeddingEngine, gate: Gate) -> None:
    gate.open.clear()
    held = asyncio.create_task(engine.embed(["w9"]))
    await entered(gate)
    bad = asyncio.create_task(engine.embed([words(5)]))
    good = asyncio.create_task(engine.embed([words(4)]))
    await started(3, engine)

    def poison(vectors: torch.Tensor) -> torch.Tensor:
        poisoned = vectors.clone()
        if len(vectors) == 2:
            poisoned[0, 3] = float("nan")
        return poisoned

    gate.poison = poison
    gate.open.set()
    await held
    with pytest.raises(GenerationFailed, match="numbers"):
        await bad
    assert len((await good).vectors) == 1
    await idle(engine)

"""all-MiniLM-L6-v2 itself: the vectors of sentence-transformers, and memory that comes back."""

import asyncio
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psutil
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from application.model_pool import ModelPool
from domain.errors import ContextLengthExceeded
from domain.model import LoadOptions, Task
from models import memory
from models.budget import BudgetPolicy
from models.embedding.engine import Bounds, EmbeddingEngine
from models.embedding.loader import load_embedding
from models.embedding.placement import place_embedding
from models.inference_thread import InferenceThread
from models.repository import LoadPolicy, OptimizedModelRepository
from models.speech.decoder import AudioDecoder
from tests.fakes.clock import LoopClock
from tests.fakes.events import RecordedEvents

if TYPE_CHECKING:
    from models.installed import InstalledModel
    from models.store import ModelStore

NAME = "all-minilm-l6-v2"
BOUNDS = Bounds(step_tokens=512, max_requests=512, max_waiting_tokens=262_144)
TEXTS = (
    "The cat sits on the mat.",
    "Ein Hund läuft über die Straße; Привет, 世界! 🙂",
    "x",
    "How do I reset my password?",
    "To get a new password, open the settings and choose 'forgot password'.",
    "   spaces\tand\nlines   ",
    "supercalifragilisticexpialidocious" * 8,
    "A sentence that is repeated until it is far beyond the context. " * 60,
)

pytestmark = pytest.mark.weights(NAME)


def load(installed: "InstalledModel", thread: InferenceThread) -> EmbeddingEngine:
    return load_embedding(
        installed.spec,
        installed.directory,
        placement=place_embedding(LoadOptions(device="cpu")),
        num_ctx=0,
        bounds=BOUNDS,
        thread=thread,
        on_progress=lambda _: None,
    )


@pytest.fixture(scope="module")
def installed(model_store: "ModelStore") -> "InstalledModel":
    return model_store.find(NAME)


@pytest.fixture(scope="module")
def engine(installed: "InstalledModel") -> Iterator[EmbeddingEngine]:
    thread = InferenceThread("test")
    yield load(installed, thread)
    thread.close()


def reference(installed: "InstalledModel", texts: tuple[str, ...]) -> torch.Tensor:
    """`[texts, 384]`: what sentence-transformers computes, by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(installed.directory, local_files_only=True)
    model = AutoModel.from_pretrained(installed.directory, local_files_only=True, dtype=torch.float32).eval()
    inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        states = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][:, :, None].float()
    pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
    return torch.nn.functional.normalize(pooled, dim=1)


def matrix(vectors: object) -> torch.Tensor:
    return torch.tensor([list(vector) for vector in vectors])  # type: ignore[attr-defined]


async def test_vectors_are_those_of_sentence_transformers(installed: "InstalledModel", engine: EmbeddingEngine) -> None:
    embeddings = await engine.embed(TEXTS)
    assert (matrix(embeddings.vectors) - reference(installed, TEXTS)).abs().max() < 1e-4
    assert embeddings.token_counts[-1] == engine.info.context_length == 256
    assert len(embeddings.vectors[0]) == engine.dimensions == 384


async def test_a_batch_gives_what_each_text_gives_alone(engine: EmbeddingEngine) -> None:
    together = matrix((await engine.embed(TEXTS)).vectors)
    alone = matrix([(await engine.embed([text])).vectors[0] for text in TEXTS])
    assert (together - alone).abs().max() <= 1e-6


async def test_a_question_is_nearest_to_its_answer(engine: EmbeddingEngine) -> None:
    vectors = matrix((await engine.embed(TEXTS)).vectors)
    likeness = vectors @ vectors[3]
    likeness[3] = -1.0
    assert int(likeness.argmax()) == 4


async def test_a_cut_vector_has_length_1(engine: EmbeddingEngine) -> None:
    (vector,) = (await engine.embed(TEXTS[:1], dimensions=64)).vectors
    assert len(vector) == 64
    assert math.hypot(*vector) == pytest.approx(1.0, abs=1e-6)


async def test_a_long_text_is_refused_where_it_may_not_be_cut(engine: EmbeddingEngine) -> None:
    with pytest.raises(ContextLengthExceeded) as refused:
        await engine.embed(TEXTS, truncate=False)
    assert refused.value.details["context_length"] == 256


async def test_closing_gives_the_memory_back(installed: "InstalledModel", engine: EmbeddingEngine) -> None:
    await engine.embed(TEXTS)
    process = psutil.Process()
    memory.trim()
    before = process.memory_info().rss
    thread = InferenceThread("other")
    other = await asyncio.to_thread(load, installed, thread)
    await other.embed(TEXTS)
    in_use = process.memory_info().rss
    await other.close()
    thread.close()
    del other
    memory.trim()
    # The weights take 87 MiB; what the libraries keep for their next use is not ours to give.
    assert in_use - before > 60 << 20
    assert in_use - process.memory_info().rss > 60 << 20


async def test_the_pool_lends_it_and_takes_it_back(model_store: "ModelStore") -> None:
    repository = OptimizedModelRepository(
        model_store, AudioDecoder(processes=1), LoadPolicy(cpu_threads=2, budget=BudgetPolicy(min_free_bytes=0))
    )
    events = RecordedEvents()
    pool = ModelPool(repository, LoopClock(), events)
    async with pool.lend("all-minilm", Task.EMBEDDING) as model:
        (vector,) = (await model.embed(["hello"])).vectors
        assert len(vector) == model.dimensions
        assert (model.info.device, model.info.dtype) == ("cpu", "float32")
    gone = await pool.unload("all-minilm")
    assert gone.was_loaded
    assert not pool.residents()
    await pool.close()
    repository.close()

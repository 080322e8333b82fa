"""Weights that make way on a GPU wait in host memory. There is no GPU here: CTranslate2's part is played by a script.

The last test is for a machine that has one.
"""

from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from domain.eviction import may_park
from domain.memory import MemoryBudget
from domain.model import LoadOptions
from domain.transcription import Transcript, TranscriptionRequest
from models import device
from models.parking import Berth, Parking
from models.repository import LoadPolicy, OptimizedModelRepository
from models.speech.checkpoint import Checkpoint
from models.speech.decoder import AudioDecoder
from models.speech.engine import WhisperEngine

if TYPE_CHECKING:
    from models.store import ModelStore

BERTH = Berth("1" * 64, "cuda:0", "float16")
MODEL = "whisper:base"


class GpuWeights:
    """A model of CTranslate2's on a GPU, as its documentation has it."""

    def __init__(self) -> None:
        self.model_is_loaded = True
        self.in_host_memory = False
        self.fits = True

    def unload_model(self, to_cpu: bool = False) -> None:
        self.in_host_memory = to_cpu
        self.model_is_loaded = False

    def load_model(self, keep_cache: bool = False) -> None:
        if not self.fits:
            raise RuntimeError("CUDA failed with error out of memory")
        assert self.in_host_memory, "it would be read from disk"
        self.model_is_loaded = True
        self.in_host_memory = keep_cache


def checkpoint(weights: GpuWeights) -> Checkpoint:
    model: Any = weights
    tokenizer: Any = None
    return Checkpoint(model, tokenizer)


@pytest.mark.parametrize(("size", "room", "may"), [(2, 2, True), (2, 1, False), (0, 9, False)])
def test_weights_wait_in_host_memory_only_where_there_is_room(size: int, room: int, may: bool) -> None:
    assert may_park(size, MemoryBudget("cpu", limit=10, held=0, free=room)) is may


def test_parked_weights_come_back_to_their_device_and_keep_their_copy() -> None:
    parking, weights = Parking[Checkpoint](), GpuWeights()
    weights.unload_model(to_cpu=True)
    parked = checkpoint(weights)
    parking.put(BERTH, parked)
    assert parking.take(Berth(BERTH.digest, "cuda:1", "float16")) is None
    assert parking.take(Berth(BERTH.digest, "cuda:0", "int8_float16")) is None
    assert parking.take(BERTH) is parked
    assert (weights.model_is_loaded, weights.in_host_memory) == (True, True)
    assert parking.take(BERTH) is None


def test_weights_that_do_not_fit_any_more_are_not_kept_for_another_try() -> None:
    parking, weights = Parking[Checkpoint](), GpuWeights()
    weights.unload_model(to_cpu=True)
    weights.fits = False
    parking.put(BERTH, checkpoint(weights))
    with pytest.raises(RuntimeError, match="out of memory"):
        parking.take(BERTH)
    assert parking.take(BERTH) is None


def test_who_needs_host_memory_gets_it_back() -> None:
    parking = Parking[Checkpoint]()
    assert not parking.clear()
    parking.put(BERTH, checkpoint(GpuWeights()))
    assert parking.clear()
    assert parking.take(BERTH) is None


async def heard(engine: WhisperEngine, audio: Path) -> str:
    async with aclosing(engine.transcribe(audio, TranscriptionRequest(language="en"))) as events:
        return next(event.text for event in [event async for event in events] if isinstance(event, Transcript))


@pytest.mark.weights(MODEL)
async def test_a_model_on_the_cpu_is_not_parked(model_store: "ModelStore") -> None:
    repository = OptimizedModelRepository(model_store, AudioDecoder(processes=1), LoadPolicy(cpu_threads=2))
    engine = await repository.load(repository.find(MODEL), LoadOptions(device="cpu"), lambda _: None)
    assert await repository.unload(engine, park=True) > 0
    assert "parked weights" not in await repository.trim()
    repository.close()


@pytest.mark.gpu
@pytest.mark.skipif(not device.gpus(), reason="there is no GPU here")
@pytest.mark.weights(MODEL)
async def test_a_model_on_a_gpu_waits_in_host_memory_and_hears_the_same_afterwards(
    model_store: "ModelStore", audio_dir: Path
) -> None:
    repository = OptimizedModelRepository(model_store, AudioDecoder(processes=1), LoadPolicy(cpu_threads=2))
    spec, options = repository.find(MODEL), LoadOptions(device="cuda:0")
    texts = []
    for _ in range(3):
        engine = await repository.load(spec, options, lambda _: None)
        assert isinstance(engine, WhisperEngine)
        texts.append(await heard(engine, audio_dir / "jfk.mp3"))
        assert await repository.unload(engine, park=True) > 0
    assert len(set(texts)) == 1
    assert "parked weights" in await repository.trim()
    repository.close()

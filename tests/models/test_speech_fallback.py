"""A GPU that does not work, over the real whisper:base."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from domain.errors import ModelLoadFailed
from domain.memory import GpuMemory, MemoryUsage
from domain.model import LoadOptions
from models import device, memory
from models.repository import LoadPolicy, OptimizedModelRepository
from models.speech.decoder import AudioDecoder

if TYPE_CHECKING:
    from models.store import ModelStore

pytestmark = pytest.mark.weights("whisper:base")


@pytest.fixture
def decoder() -> Iterator[AudioDecoder]:
    decoder = AudioDecoder(processes=1)
    yield decoder
    decoder.close()


@pytest.mark.skipif(bool(device.gpus()), reason="this machine has a GPU that works")
async def test_a_gpu_that_fails_leaves_the_model_to_the_cpu_unless_it_was_asked_for(
    model_store: "ModelStore", decoder: AudioDecoder
) -> None:
    def usage() -> MemoryUsage:
        return replace(memory.usage(), gpus=(GpuMemory(0, "Imaginary GPU", 24 << 30, 0),))

    repository = OptimizedModelRepository(
        model_store, decoder, LoadPolicy(cpu_threads=2), usage=usage, speech_device=lambda _wanted: "cuda:0"
    )
    spec = repository.find("whisper:base")
    assert repository.need(spec, LoadOptions()).device == "cuda:0"
    with pytest.raises(ModelLoadFailed, match="GPU"):
        await repository.load(spec, LoadOptions(device="cuda:0"), lambda _progress: None)
    assert repository.need(spec, LoadOptions()).device == "cuda:0"
    loaded = await repository.load(spec, LoadOptions(), lambda _progress: None)
    assert (loaded.info.device, loaded.info.compute_type) == ("cpu", "int8_float32")
    [caveat] = loaded.info.caveats
    assert caveat.code == "cpu_fallback"
    assert "the CPU is slower" in caveat.message
    assert repository.need(spec, LoadOptions()).device == "cpu"
    assert repository.need(spec, LoadOptions(device="cuda:0")).device == "cuda:0"
    await repository.unload(loaded)

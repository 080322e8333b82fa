"""What each upload gets, by the real decoder in its process: statuses, and that nothing else is opened for it."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from application.model_pool import ModelPool
from application.transcribe_audio import TranscribeAudio
from domain.model import LoadOptions, Model, ModelSpec
from domain.repositories import LoadedModel, OnLoadProgress
from models.inference_thread import InferenceThread
from models.speech.abilities import Abilities
from models.speech.decoder import AudioDecoder, DecodeLimits
from models.speech.engine import WhisperEngine
from models.speech.options import EngineOptions
from tests.api.world import SPEECH, World, in_process
from tests.fakes.models import FakeModelRepository, speech_spec
from tests.models.scripted_ears import ScriptedEars
from tests.models.sound import sound_file, tone, wav
from tests.models.test_speech_isolation import SCRIPTS, Watch

LONGEST = 60.0


class EngineRepository(FakeModelRepository):
    """Speech models are engines with a real decoder, and ears that need no weights."""

    def __init__(self, decoder: AudioDecoder, *specs: ModelSpec) -> None:
        super().__init__(*specs)
        self._decoder = decoder

    async def load(self, spec: ModelSpec, options: LoadOptions, on_progress: OnLoadProgress) -> LoadedModel:
        """An engine."""
        del options, on_progress
        loaded = Model(spec).loaded(
            device="cpu",
            dtype="float32",
            quantization="int8",
            context_length=0,
            memory_bytes=1,
            load_time_ms=1,
            compute_type="int8",
        )
        abilities = Abilities(spec.id, frozenset(("en", "de")), translates=False)
        thread = InferenceThread("speech test")
        return WhisperEngine(
            loaded,
            ScriptedEars(),
            abilities,
            self._decoder,
            thread,
            options=EngineOptions().on("cpu", free_bytes=0),
        )

    async def unload(self, model: LoadedModel, *, park: bool = False) -> int:
        """Close it."""
        assert isinstance(model, WhisperEngine)
        await asyncio.to_thread(model.close)
        return 1


@pytest.fixture(scope="module")
def decoder() -> Iterator[AudioDecoder]:
    decoder = AudioDecoder(DecodeLimits(max_seconds=LONGEST), processes=1)
    yield decoder
    decoder.close()


@pytest.fixture
async def client(world: World, decoder: AudioDecoder) -> AsyncGenerator[httpx2.AsyncClient, None]:
    """The application over the engine."""
    services = world.services
    pool = ModelPool(EngineRepository(decoder, speech_spec(SPEECH)), services.clock, world.events)
    transcribe = TranscribeAudio(pool, services.clock, world.events)
    async with in_process(world.app(pool=pool, transcribe=transcribe)) as client:
        yield client
    await pool.close()


def cut_header() -> bytes:
    return wav(1.0)[:20]


def without_index() -> bytes:
    whole = sound_file("mp4", "aac", [tone(1.0)])
    return whole[: whole.index(b"moov") - 4]


def damaged() -> bytes:
    whole = sound_file("flac", "flac", [np.random.default_rng(1).integers(-9000, 9000, 480_000).astype(np.int16)])
    return whole[: int(len(whole) * 0.6)]


UPLOADS: dict[str, tuple[Any, int, str]] = {
    "no bytes": (lambda: b"", 422, "empty_audio"),
    "no samples": (lambda: wav(0.0), 422, "empty_audio"),
    "too short": (lambda: wav(0.01), 422, "empty_audio"),
    "text": (lambda: b"Dear Sir or Madam, " * 50, 415, "invalid_audio"),
    "a web page": (lambda: b"<!doctype html><html><body>404</body></html>", 415, "invalid_audio"),
    "json": (lambda: b'{"audio": "UklGRg=="}', 415, "invalid_audio"),
    "an archive": (lambda: b"PK\x03\x04" + bytes(200), 415, "invalid_audio"),
    "noise": (lambda: np.random.default_rng(7).bytes(5000), 415, "invalid_audio"),
    "a cut header": (cut_header, 415, "invalid_audio"),
    "an mp4 without its index": (without_index, 415, "invalid_audio"),
    "a container that is not on the list": (lambda: sound_file("avi", "mp3", [tone(1.0)]), 415, "invalid_audio"),
    "a rate beyond all": (lambda: wav(1.0, rate=400_000), 415, "invalid_audio"),
    "channels beyond all": (lambda: wav(1.0, channels=9), 415, "invalid_audio"),
    "pictures only": (lambda: sound_file("mp4", "aac", [], video=True), 422, "no_audio_track"),
    "too long": (lambda: sound_file("flac", "flac", [np.zeros(62 * 48_000, np.int16)]), 413, "audio_too_long"),
}


def form(content: bytes) -> dict[str, Any]:
    return {"files": {"file": ("a.wav", content, "audio/wav")}}


@pytest.mark.parametrize("name", UPLOADS)
async def test_a_bad_upload_has_its_status_in_both_dialects(client: httpx2.AsyncClient, name: str) -> None:
    make, status, code = UPLOADS[name]
    content = make()
    for data in ({}, {"stream": "true"}):
        response = await client.post("/transcribe", **form(content), data=data)
        assert (response.status_code, response.json()["code"]) == (status, code), response.text
        assert response.headers["content-type"] == "application/problem+json"
    response = await client.post("/v1/audio/transcriptions", **form(content), data={"model": SPEECH})
    assert (response.status_code, response.json()["error"]["code"]) == (413 if status == 413 else 400, code)


@pytest.mark.parametrize(
    ("name", "content", "warning"),
    [
        ("mp3", sound_file("mp3", "mp3", [tone(1.0)]), ""),
        ("webm", sound_file("webm", "libopus", [tone(1.0)]), ""),
        ("m4a", sound_file("ipod", "aac", [tone(1.0)]), ""),
        ("ogg", sound_file("ogg", "libopus", [tone(1.0)]), ""),
        ("two sound tracks and a picture", sound_file("matroska", "flac", [tone(1.0)] * 2, video=True), ""),
        ("ends too early", damaged(), "audio_truncated"),
    ],
)
async def test_a_good_upload_is_heard_and_told_of(
    client: httpx2.AsyncClient, name: str, content: bytes, warning: str
) -> None:
    del name
    response = await client.post("/transcribe", **form(content), data={"vad_filter": "false", "language": "en"})
    answer = response.json()
    assert response.status_code == 200, response.text
    assert answer["duration"] >= 0.9
    codes = [one["code"] for one in answer["warnings"]]
    assert all(code in ("audio_truncated", "audio_damaged") for code in codes)
    assert bool(codes) == bool(warning)


async def test_scripts_open_no_other_file_and_no_connection(client: httpx2.AsyncClient, tmp_path: Path) -> None:
    canary = tmp_path / "canary.wav"
    canary.write_bytes(wav(1.0))
    watch = Watch(canary)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        for name, script in SCRIPTS.items():
            content = script.format(canary=canary, host=host).encode()
            response = await client.post("/transcribe", files={"file": (f"{name}.m3u8", content, "audio/mpegurl")})
            assert (response.status_code, response.json()["code"]) == (415, "invalid_audio"), name
            assert str(tmp_path) not in response.text
            assert not watch.opened(), name
            with pytest.raises(BlockingIOError):
                listener.accept()
    watch.close()
    assert (await client.post("/transcribe", **form(wav(1.0)))).status_code == 200


async def test_two_channels_are_heard_one_by_one(client: httpx2.AsyncClient) -> None:
    stereo = sound_file("wav", "pcm_s16le", [tone(1.0)], layout="stereo")
    fields = {"channel": "split", "include_segments": "true", "vad_filter": "false", "language": "en"}
    answer = (await client.post("/transcribe", **form(stereo), data=fields)).json()
    assert [segment["channel"] for segment in answer["segments"]] == [0, 1]
    response = await client.post("/transcribe", **form(wav(1.0)), data=fields)
    assert (response.status_code, response.json()["code"]) == (422, "validation_error")


async def test_a_model_that_cannot_translate_is_refused_in_both_dialects(client: httpx2.AsyncClient) -> None:
    response = await client.post("/transcribe", **form(wav(1.0)), data={"task": "translate"})
    assert (response.status_code, response.json()["code"]) == (422, "unsupported_capability")
    response = await client.post("/v1/audio/translations", **form(wav(1.0)), data={"model": SPEECH})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported_capability")


async def test_a_prompt_beyond_the_model_is_told(client: httpx2.AsyncClient) -> None:
    fields = {"prompt": "p" * 300, "response_format": "text", "vad_filter": "false", "language": "en"}
    response = await client.post("/transcribe", **form(wav(1.0)), data=fields)
    assert "prompt_truncated" in response.headers["x-warnings"].split(",")
    assert response.headers["x-language"] == "en"

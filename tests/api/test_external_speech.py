"""WHISPERX_URL with another Ingle as the server, in both shapes, over real sockets."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from application.joined_repository import JoinedRepository
from application.model_pool import ModelPool
from application.transcribe_audio import TranscribeAudio
from infrastructure.providers.repository import ProvidedModels
from ingle.external_models import provided_models
from ingle.settings_providers import ProviderSettings
from tests.api.world import SPEECH, World, make_world, serving
from tests.fakes.clock import LoopClock
from tests.fakes.events import RecordedEvents
from tests.models.sound import wav

KEY = "sk-canary-0123456789"
SHAPES = pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/asr", ""])


@asynccontextmanager
async def two_servers(path: str, tmp_path: Path) -> AsyncGenerator[tuple[World, httpx2.AsyncClient], None]:
    """The world behind, and a client of a server whose `whisperx` is spoken to at `path` of it."""
    behind = make_world(tmp_path / "behind")
    front = make_world(tmp_path / "front")
    async with serving(behind.app()) as far:
        settings = {"whisperx_url": f"http://{far.host}:{far.port}{path}", "whisperx_api_key": KEY}
        external = ProvidedModels(provided_models(ProviderSettings.model_validate(settings), []), LoopClock())
        pool = ModelPool(JoinedRepository(front.repository, external, {}), LoopClock(), RecordedEvents())
        transcribe = TranscribeAudio(pool, LoopClock(), RecordedEvents())
        services = replace(front.services, pool=pool, transcribe=transcribe, providers=external)
        async with serving(replace(front, pool=pool, services=services).app()) as near:
            yield behind, near.client
        await pool.close()
        await external.close()


async def transcribed(client: httpx2.AsyncClient, **fields: Any) -> httpx2.Response:
    files = {"file": ("a.wav", wav(2.0))}
    return await client.post("/transcribe", files=files, data={"model": "whisperx", **fields})


@SHAPES
async def test_a_recording_reaches_the_server_behind_and_comes_back(path: str, tmp_path: Path) -> None:
    async with two_servers(path, tmp_path) as (behind, client):
        answer = await transcribed(client, language="en", prompt="Ingle", include_segments="true")
        assert answer.status_code == 200, answer.text
        [call] = behind.repository.speech(SPEECH).heard
    body = answer.json()
    assert body["text"] == "Hello world. How are you?"
    assert [(one["start"], one["end"], one["text"]) for one in body["segments"]] == [
        (0.0, 2.0, "Hello world."),
        (2.0, 4.0, "How are you?"),
    ]
    assert (body["model"], body["device"], body["language"]) == ("whisperx", "remote", "en")
    assert call.content == wav(2.0)
    assert (call.request.language, call.request.prompt) == ("en", "Ingle")


@SHAPES
async def test_the_language_that_it_heard_is_told(path: str, tmp_path: Path) -> None:
    async with two_servers(path, tmp_path) as (behind, client):
        behind.repository.script(SPEECH).speech.language = "de"
        assert (await transcribed(client)).json()["language"] == "de"


@SHAPES
async def test_what_it_refuses_or_cannot_be_told_has_its_own_status(path: str, tmp_path: Path) -> None:
    async with two_servers(path, tmp_path) as (behind, client):
        refused = await transcribed(client, hotwords="Ingle")
        assert behind.pool.residents() == []
        behind.repository.script(SPEECH).speech.error = ValueError("a bug behind")
        broken = await transcribed(client)
    assert (refused.status_code, refused.json()["code"]) == (422, "unsupported_parameter")
    assert (broken.status_code, broken.json()["code"]) == (502, "provider_error")


@SHAPES
async def test_the_status_names_it_and_shows_no_key(path: str, tmp_path: Path) -> None:
    async with two_servers(path, tmp_path) as (_, client):
        page = await client.get("/api/v1/providers/status")
    [state] = [one for one in page.json()["providers"] if one["name"] == "whisperx"]
    assert (state["status"], state["kind"], state["configured"]) == ("ok", "whisperx", True)
    assert (state["base_url_host"], state["models"], state["circuit"]) == ("127.0.0.1", ["whisperx"], "closed")
    assert KEY not in page.text

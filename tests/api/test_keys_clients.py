"""The official clients of OpenAI and Ollama, with a key, with the wrong one and with none."""

from collections.abc import AsyncGenerator

import ollama
import openai
import pytest
from openai import AsyncOpenAI

from tests.api.world import TEXT, Served, World, serving
from tests.fakes.keys import key_of, keys


@pytest.fixture
async def server(world: World) -> AsyncGenerator[Served, None]:
    async with serving(world.app(keys=keys())) as server:
        yield server


def address(server: Served) -> str:
    return f"http://{server.host}:{server.port}"


async def test_openai_clients_send_their_key(server: Served) -> None:
    async with AsyncOpenAI(base_url=f"{address(server)}/v1", api_key=key_of("infer"), max_retries=0) as client:
        assert TEXT in [model.id async for model in client.models.list()]
        stream = await client.chat.completions.create(
            model=TEXT, messages=[{"role": "user", "content": "one two"}], stream=True
        )
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        with pytest.raises(openai.PermissionDeniedError) as forbidden:
            await client.models.delete(TEXT)
        assert forbidden.value.code == "insufficient_scope"


@pytest.mark.parametrize("key", ["any", key_of("infer") + "x"])
async def test_openai_clients_with_another_key_hear_of_it(server: Served, key: str) -> None:
    async with AsyncOpenAI(base_url=f"{address(server)}/v1", api_key=key) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            await client.chat.completions.create(model=TEXT, messages=[{"role": "user", "content": "hi"}])
    assert (refused.value.status_code, refused.value.code) == (401, "invalid_api_key")
    assert refused.value.type == "authentication_error"


async def test_ollama_clients_send_their_key(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", key_of("infer"))
    client = ollama.AsyncClient(host=address(server))
    try:
        assert TEXT in [model.model for model in (await client.list()).models]
        pieces = [piece.response or "" async for piece in await client.generate(TEXT, "one two", stream=True)]
        assert "".join(pieces)
        with pytest.raises(ollama.ResponseError) as forbidden:
            await client.delete(TEXT)
        assert forbidden.value.status_code == 403
    finally:
        await client._client.aclose()


async def test_ollama_clients_without_a_key_hear_of_it(server: Served) -> None:
    client = ollama.AsyncClient(host=address(server))
    try:
        for call in (client.list(), client.chat(TEXT, [{"role": "user", "content": "hi"}])):
            with pytest.raises(ollama.ResponseError) as refused:
                await call
            assert (refused.value.status_code, refused.value.error) == (401, "unauthorized")
    finally:
        await client._client.aclose()

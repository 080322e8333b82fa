"""Bodies that are too large, no JSON, or more than JSON allows: a 4xx before anything is done."""

from typing import Any

import httpx2
import orjson
import pytest

from tests.api.problems import refused


async def test_a_prompt_of_10_mb_is_413(client: httpx2.AsyncClient) -> None:
    for body in ({"prompt": "a" * 10_000_000}, {"query": "a", "context": ["b" * 10_000_000]}):
        problem = refused(await client.post("/generate", json=body), 413, "payload_too_large")
        assert problem["max_bytes"] == 4 << 20


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": Infinity}',
        b'{"prompt": "a", "temperature": -Infinity}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "seed": 1180591620717411303424}',
        b'{"prompt": "a", "seed": -9223372036854775809}',
        b'{"prompt": "a", "seed": ' + b"1" * 400 + b"}",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a\\udfff"}',
        b'{"\\ud800": "a"}',
        b'{"prompt": "\xed\xa0\x80"}',
        b'{"prompt": "\xff"}',
        b"{",
        b'{"prompt": "a"',
        b"{'prompt': 'a'}",
        b'{"prompt": "a",}',
        b"prompt=a",
        b'{"prompt": "a"} x',
        b"[" * 100_000,
        b'{"a": ' * 65 + b"1" + b"}" * 65,
        b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}",
    ],
    ids=lambda body: body[:24].decode("latin-1"),
)
async def test_what_is_not_strict_json_is_400(client: httpx2.AsyncClient, body: bytes) -> None:
    refused(await client.post("/generate", content=body), 400, "invalid_json")


async def test_what_strict_json_allows_is_read(client: httpx2.AsyncClient) -> None:
    deep: Any = 1
    for _ in range(63):
        deep = [deep]
    body = {"prompt": "a", "x": deep, "y": 2**64 - 1, "z": -(2**63), "d": "1" * 40, "e": 0.1234567890123456789}
    response = await client.post("/generate", content=orjson.dumps(body))
    assert response.status_code == 200
    response = await client.post("/generate", content=b'{"prompt": "first", "prompt": "last"}')
    assert response.json()["response"] == "last"


@pytest.mark.parametrize("body", [b"", b" ", b"\n"])
async def test_no_body_is_400(client: httpx2.AsyncClient, body: bytes) -> None:
    refused(await client.post("/generate", content=body), 400, "missing_body")


async def test_multipart_on_a_json_route_is_415(client: httpx2.AsyncClient) -> None:
    for path in ("/generate", "/load-model", "/unload-model", "/optimize-memory"):
        refused(await client.post(path, files={"prompt": ("a", b"b")}), 415, "unsupported_media_type")


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "br", "deflate, gzip", "GZIP"])
async def test_a_compressed_body_is_415(client: httpx2.AsyncClient, encoding: str) -> None:
    for path in ("/generate", "/transcribe", "/load-model"):
        response = await client.post(path, content=b"x", headers={"content-encoding": encoding})
        refused(response, 415, "unsupported_media_type")


async def test_a_flood_of_small_things_is_refused_quickly(client: httpx2.AsyncClient) -> None:
    for body in ({"prompt": "a", "stop": ["s"] * 500_000}, {"query": "a", "context": ["p"] * 500_000}):
        refused(await client.post("/generate", json=body), 422, "validation_error")

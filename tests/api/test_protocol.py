"""Below the application: headers, slow senders, smuggling, too many connections."""
# ruff: noqa: N802 (ids of attacks stand in the names of their tests)

import asyncio
from typing import Any

import orjson
import pytest

from api.protocol import ConnectionLimits
from tests.api.world import TEXT, Served, World, serving, until

GET = b"GET /version HTTP/1.1\r\nHost: localhost\r\n"


async def answer_to(server: Served, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to raw bytes; the connection must be closed after it."""
    reader, writer = await server.connect()
    writer.write(request)
    try:
        raw = await reader.read()
    finally:
        writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body


def check_problem(answer: tuple[int, dict[str, str], bytes], status: int, code: str) -> dict[str, Any]:
    found, headers, body = answer
    document: dict[str, Any] = orjson.loads(body)
    assert (found, document["code"]) == (status, code)
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert headers["server"] == "ingle/0.1.0"
    assert headers["x-request-id"] == document["request_id"]
    return document


@pytest.mark.parametrize(
    "request_",
    [
        GET + b"X: " + b"y" * (64 << 10) + b"\r\n\r\n",
        GET + b"X: y\r\n" * 100 + b"\r\n",
        GET + b"X: " + b"y" * (200 << 10),
        GET + b"".join(b"X%d: %s\r\n" % (n, b"y" * 900) for n in range(90)),
        b"GET /" + b"x" * (8 << 10) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /" + b"x" * (200 << 10),
    ],
    ids=["one long", "too many", "endless value", "endless fields", "long target", "endless target"],
)
async def test_N12_a_flood_of_headers_is_431(server: Served, request_: bytes) -> None:
    check_problem(await answer_to(server, request_), 431, "headers_too_large")


async def test_N12_what_is_within_the_limits_passes(server: Served) -> None:
    reader, writer = await server.connect()
    writer.write(GET + b"X: " + b"y" * (60 << 10) + b"\r\n" + b"Z: z\r\n" * 97 + b"\r\n")
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /optimize-memory HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /optimize-memory HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /optimize-memory HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: x, chunked, y\r\n\r\n0\r\n\r\n",
        b"POST /optimize-memory HTTP/1.1\r\nHost: localhost\r\nContent-Length: +2\r\n\r\n{}",
        b"POST /optimize-memory HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /version HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
        b"GET /version HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET /version HTTP/9.9\r\n\r\n",
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_N11_a_request_that_two_parsers_may_read_differently_is_400_and_the_last(
    world: World, server: Served, request_: bytes
) -> None:
    smuggled = GET + b"\r\n"
    status, headers, body = await answer_to(server, request_ + smuggled)
    check_problem((status, headers, body), 400, "invalid_request")
    assert body.count(b"HTTP/1.1") == 1  # the words in the message; no second answer follows
    assert world.repository.trims == 0


async def test_a_refusal_below_the_application_has_the_dialects_shape(server: Served) -> None:
    status, _, body = await answer_to(server, b"POST /api/chat HTTP/1.1\r\nHost : x\r\n\r\n")
    assert status == 400
    assert set(orjson.loads(body)) == {"error"}
    status, _, body = await answer_to(server, b"POST /v1/chat/completions HTTP/1.1\r\nHost : x\r\n\r\n")
    assert orjson.loads(body)["error"]["type"] == "invalid_request_error"


async def test_N13_headers_that_do_not_end_are_408(world: World) -> None:
    limits = ConnectionLimits(header_seconds=0.1)
    async with serving(world.app(), limits) as server:
        check_problem(await answer_to(server, GET), 408, "request_timeout")
        status_of_silence = await answer_nothing(server)
        assert status_of_silence == b""


async def answer_nothing(server: Served) -> bytes:
    reader, writer = await server.connect()
    raw = await reader.read()
    writer.close()
    return raw


async def test_N13_a_stalled_body_is_408_and_the_work_never_starts(world: World) -> None:
    limits = ConnectionLimits(body_grace=0.1, rate_window=0.05, linger=60.0)
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: 100000\r\n\r\nRIFF"
    async with serving(world.app(), limits) as server:
        for path, media_type in ((b"/generate", b"application/json"), (b"/transcribe", b"audio/wav")):
            answer = await answer_to(server, head % (path, media_type))
            check_problem(answer, 408, "request_timeout")
        reader, writer = await server.connect()
        writer.write(head % (b"/transcribe", b"audio/wav"))
        await until(lambda: world.uploads)
        await reader.read()
        # The work ends with the refusal, not with the connection.
        await until(lambda: not world.uploads)
        writer.close()
    assert world.repository.loads == []


async def test_N13_a_body_that_keeps_coming_is_read_to_its_end(world: World) -> None:
    limits = ConnectionLimits(body_grace=0.05, rate_window=0.05, body_rate=100)
    async with serving(world.app(), limits) as server:

        async def slowly() -> Any:
            yield b'{"prompt": "'
            for _ in range(10):
                yield b"a" * 100
                await asyncio.sleep(0.02)
            yield b'"}'

        response = await server.client.post("/generate", content=slowly())
        assert response.json()["response"] == "a" * 1000


async def test_N13_a_request_that_works_long_is_not_a_slow_one(world: World) -> None:
    limits = ConnectionLimits(header_seconds=0.05, body_grace=0.05, rate_window=0.05)
    gate = world.repository.script(TEXT).text.before_first.shut()
    async with serving(world.app(), limits) as server:
        waiting = asyncio.create_task(server.client.post("/generate", json={"prompt": "a"}))
        assert await asyncio.wait({waiting}, timeout=0.2) == (set(), {waiting})
        gate.open()
        assert (await waiting).status_code == 200


async def test_N13_one_address_gets_a_bounded_number_of_connections(world: World) -> None:
    async with serving(world.app(), ConnectionLimits(connections=3)) as server:
        held = [await server.connect() for _ in range(3)]
        for _, writer in held:
            writer.write(GET + b"\r\n")
        for reader, _ in held:
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        answer = await answer_to(server, b"")
        check_problem(answer, 429, "rate_limit_exceeded")
        assert int(answer[1]["retry-after"]) >= 1
        held[0][1].close()
        await held[0][1].wait_closed()

        async def is_served() -> bool:
            reader, writer = await server.connect()
            writer.write(GET + b"\r\n")
            line = await reader.readuntil(b"\r\n")
            writer.close()
            return line.startswith(b"HTTP/1.1 200")

        while not await is_served():
            pass
        for _, writer in held[1:]:
            writer.close()


async def test_N13_a_trusted_proxy_may_open_more(world: World) -> None:
    limits = ConnectionLimits(connections=0, trusted=frozenset({"127.0.0.1"}))
    async with serving(world.app(), limits) as server:
        assert (await server.client.get("/version")).status_code == 200


async def test_a_body_that_goes_on_after_its_answer_is_cut_off(world: World) -> None:
    limits = ConnectionLimits(unread=1 << 20)
    async with serving(world.app(), limits) as server:
        reader, writer = await server.connect()
        writer.write(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000000000\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 413")
        with pytest.raises(ConnectionError):
            while True:
                writer.write(b"x" * (256 << 10))
                await writer.drain()
        writer.close()


async def test_a_client_that_asks_before_it_sends_gets_its_refusal_instead(server: Served) -> None:
    reader, writer = await server.connect()
    head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % (5 << 20))
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 413")
    writer.close()
    reader, writer = await server.connect()
    writer.write(head % 15)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    writer.write(b'{"prompt": "a"}')
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_answers_are_sent_at_once(server: Served) -> None:
    """Nagle's algorithm against delayed acknowledgements makes 40 ms of each answer in two writes."""
    await server.client.post("/generate", json={"prompt": "a"})
    loop = asyncio.get_running_loop()
    fastest = 1.0
    for _ in range(5):
        began = loop.time()
        await server.client.post("/generate", json={"prompt": "a"})
        fastest = min(fastest, loop.time() - began)
    assert fastest < 0.035


async def test_N13_a_connection_that_idles_between_requests_is_closed(world: World) -> None:
    async with serving(world.app(), ConnectionLimits(keep_alive=0)) as server:
        reader, writer = await server.connect()
        writer.write(GET + b"\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_several_requests_use_one_connection(server: Served) -> None:
    reader, writer = await server.connect()
    writer.write((GET + b"\r\n") * 3)
    for _ in range(3):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        [length] = [line for line in head.split(b"\r\n") if line.startswith(b"content-length")]
        await reader.readexactly(int(length.split()[1]))
    writer.close()

"""What /transcribe/url answers for addresses that are meant to harm. The rows are those of the threat model.

The fetcher is the real one, and so are its connections; a server that must not be reached counts who comes.
"""
# ruff: noqa: N802 (ids of attacks stand in the names of their tests)

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import httpx2
import pytest

from infrastructure.addresses import AddressRules
from infrastructure.fetch import FetchLimits, SafeFetcher
from infrastructure.outbound import OutboundPolicy
from tests.api.sound import SOUND
from tests.api.world import World, in_process, until
from tests.faults.test_fetch import LOOPBACK, Names
from tests.providers.stub import Reply, StubProvider, stub_provider

FOUND = Reply(pieces=(SOUND,))
CLOSED = AddressRules()


@asynccontextmanager
async def asking(
    world: World, stub: StubProvider, rules: AddressRules = CLOSED, names: Names | None = None, **limits: Any
) -> AsyncGenerator[httpx2.AsyncClient, None]:
    """A client of a server that may fetch from the web's ports and the stub's. It is patient unless told otherwise."""
    policy = OutboundPolicy(rules, frozenset({80, 443, stub.port}), resolver=names or Names())
    fetcher = SafeFetcher(policy, FetchLimits(**limits))
    async with in_process(world.app(fetcher=fetcher)) as client:
        yield client
    assert world.uploads == []


async def ask(client: httpx2.AsyncClient, url: str) -> tuple[int, dict[str, Any]]:
    """Status and body, without the request's id."""
    response = await client.post("/transcribe/url", json={"url": url})
    body = response.json()
    assert body.pop("request_id")
    return response.status_code, body


def refusal() -> dict[str, Any]:
    return {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "That address cannot be fetched from here.",
        "code": "url_not_allowed",
    }


LITERALS = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "127.0.0.1", "127.255.255.254",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1",
    "198.18.0.1", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "[::]", "[::1]", "[64:ff9b:1::1]", "[100::1]", "[2001:db8::1]", "[fc00::1]", "[fd12::1]", "[fe80::1]", "[ff02::1]",
    "[fec0::1]",
]  # fmt: skip
SPELLINGS = [
    "127.1", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "①②⑦.0.0.1", "0", "127.0.0.1.", "localhost",
    "localhost.", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]",
    "[2001:0:7f00:1::80ff:fffe]", "[fec0::127.0.0.1]", "[::1%25lo]",
]  # fmt: skip


@pytest.mark.parametrize("hosts", [LITERALS, SPELLINGS], ids=["U1", "U2"])
async def test_U1_U2_addresses_of_this_network_are_refused_however_they_are_spelled(
    world: World, hosts: list[str]
) -> None:
    async with stub_provider(FOUND) as stub, asking(world, stub) as client:
        answers = [await ask(client, f"http://{host}:{stub.port}/a.wav") for host in hosts]
        assert answers == [(400, refusal())] * len(hosts)
        assert stub.requests == []


async def test_U3_names_with_mixed_answers_and_names_that_change_their_minds_reach_nobody(world: World) -> None:
    names = Names({"mixed.example": [["8.8.8.8", "10.0.0.1"]], "flips.example": [["10.0.0.1"], ["8.8.8.8"]]})
    async with stub_provider(FOUND) as stub, asking(world, stub, names=names) as client:
        for host in ("mixed.example", "flips.example"):
            assert await ask(client, f"http://{host}:{stub.port}/") == (400, refusal())
        assert stub.requests == []
    # What was checked is connected to: the second answer, which is another address, is not asked for.
    names = Names({"flips.example": [["127.0.0.1"], ["10.0.0.1"]]})
    async with stub_provider(FOUND) as stub, asking(world, stub, LOOPBACK, names) as client:
        assert (await ask(client, f"http://flips.example:{stub.port}/"))[0] == 200
        assert names.asked == ["flips.example"]


@pytest.mark.parametrize(
    "location", ["http://169.254.169.254/latest", "http://10.0.0.1/", "file:///etc/passwd", "http://nowhere.example/"]
)
async def test_U4_redirects_are_judged_as_if_they_had_been_asked_for(world: World, location: str) -> None:
    async with (
        stub_provider(Reply(302, {"location": location}), FOUND) as stub,
        asking(world, stub, LOOPBACK) as client,
    ):
        assert await ask(client, f"http://127.0.0.1:{stub.port}/") == (400, refusal())
        assert len(stub.requests) == 1


async def test_U4_three_redirects_are_followed_and_no_fourth(world: World) -> None:
    async with stub_provider(Reply(302, {"location": "/again"})) as stub, asking(world, stub, LOOPBACK) as client:
        status, body = await ask(client, f"http://127.0.0.1:{stub.port}/")
        assert (status, body["code"], len(stub.requests)) == (502, "download_failed", 4)


async def test_U5_U6_what_readers_read_differently_and_other_schemes_and_ports_are_refused(world: World) -> None:
    async with stub_provider(FOUND) as stub, asking(world, stub) as client:
        strange = [
            f"http://127.0.0.1:{stub.port}\\.good.com/", f"http://good.com\\@127.0.0.1:{stub.port}/",
            f"http://good.com@127.0.0.1:{stub.port}/", f"http://user:word@127.0.0.1:{stub.port}/",
            f"http://127.0.0.1\t:{stub.port}/", f"http://ⓛocalhost:{stub.port}/", f"http://127.0.0.1 :{stub.port}/",
            f"http:///127.0.0.1:{stub.port}/", f"//127.0.0.1:{stub.port}/", "http://", "nonsense",
            "http://a.example/" + "a" * 2048, "file:///etc/passwd", "ftp://a.example/a.wav", "gopher://a.example/",
            "data:audio/wav;base64,AAAA", "concat:/etc/passwd", "unix:///run/x.sock", "http://8.8.8.8:22/",
            "http://8.8.8.8:5432/", "http://8.8.8.8:11434/", "https://8.8.8.8:6379/",
        ]  # fmt: skip
        for url in strange:
            assert await ask(client, url) == (400, refusal()), url
        assert stub.requests == []


async def test_U7_endless_and_dripping_answers_end_in_time(world: World) -> None:
    endless = Reply(pieces=(SOUND,) * 40)
    liar = Reply(headers={"content-length": str(1 << 40)}, pieces=(SOUND,))
    dripping = Reply(pieces=(b"R", 0.05) * 100)
    limits = world.services.limits
    for reply, status, code in (
        (endless, 413, "payload_too_large"), (liar, 413, "payload_too_large"), (dripping, 504, "deadline_exceeded"),
    ):  # fmt: skip
        async with stub_provider(reply) as stub:
            fetcher = SafeFetcher(OutboundPolicy(LOOPBACK, frozenset({stub.port})), FetchLimits(idle=0.2, total=5.0))
            small = type(limits)(upload_bytes=len(SOUND) * 20)
            async with in_process(world.app(fetcher=fetcher, limits=small)) as client:
                answer, body = await ask(client, f"http://127.0.0.1:{stub.port}/")
        assert (answer, body["code"]) == (status, code)
        assert world.uploads == []


async def test_U7_of_fifty_at_once_four_are_fetched_sixteen_wait_and_the_rest_is_sent_away(world: World) -> None:
    here, most, go_on = 0, 0, asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal here, most
        here, most = here + 1, max(most, here + 1)
        await reader.readuntil(b"\r\n\r\n")
        await go_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + SOUND)
        await writer.drain()
        here -= 1
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as sink:
        stub = StubProvider(port=sink.sockets[0].getsockname()[1])
        async with asking(world, stub, LOOPBACK) as client:
            asked = [asyncio.create_task(ask(client, f"http://127.0.0.1:{stub.port}/")) for _ in range(50)]
            await until(lambda: sum(task.done() for task in asked) == 30 and here == 4)
            go_on.set()
            answers = await asyncio.gather(*asked)
    assert Counter((status, body.get("code")) for status, body in answers) == {
        (200, None): 20, (503, "server_overloaded"): 30,
    }  # fmt: skip
    assert most == 4


async def test_U8_answers_map_no_network(world: World) -> None:
    async with (
        stub_provider(Reply(302, {"location": "http://10.0.0.1/"})) as stub,
        asking(world, stub, LOOPBACK) as client,
    ):
        closed = stub.port
        answers = [
            await ask(client, url)
            for url in ("http://10.0.0.1/", "http://nowhere.example/", f"http://127.0.0.1:{stub.port}/")
        ]
    async with stub_provider(FOUND) as stub, asking(world, StubProvider(port=closed), LOOPBACK) as client:
        answers.append(await ask(client, f"http://127.0.0.1:{closed}/"))
    assert answers == [(400, refusal())] * 4


async def test_U9_what_the_operator_opened_is_open_and_metadata_never_is(world: World) -> None:
    rules = AddressRules((ip_network("127.0.0.1/32"), ip_network("169.254.0.0/16")), ("169.254.169.254",))
    async with stub_provider(FOUND) as stub, asking(world, stub, rules) as client:
        status, body = await ask(client, f"http://127.0.0.1:{stub.port}/")
        assert (status, body["text"]) == (200, "Hello world. How are you?")
        assert await ask(client, "http://169.254.169.254/latest/meta-data") == (400, refusal())

"""Fetching what strangers name, against real local servers that the test opens by their network."""

import asyncio
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import httpx2
import pytest

from domain.errors import DeadlineExceeded, DownloadFailed, DownloadTooLarge, IngleError, Overloaded, UrlNotAllowed
from infrastructure.addresses import Address, AddressRules, parse
from infrastructure.fetch import FetchLimits, SafeFetcher
from infrastructure.outbound import CheckedTransport, OutboundPolicy, Refused, system_resolver
from tests.providers.stub import Reply, StubProvider, stub_provider

LOOPBACK = AddressRules((ip_network("127.0.0.1/32"),))
QUICK = FetchLimits(connect=1.0, first_byte=0.3, idle=0.3, total=5.0)
SOUND = Reply(pieces=(b"RIFF", b"sound"))
LIMIT = 1 << 20


@dataclass
class Names:
    """A resolver of the test's own; a name with several lists of addresses changes its mind each time."""

    answers: dict[str, list[list[str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        self.asked.append(host)
        if host == "nowhere.example":
            raise socket.gaierror("unknown")
        if host not in self.answers:
            return await system_resolver(host, port)
        lists = self.answers[host]
        return [parse(text) for text in (lists.pop(0) if len(lists) > 1 else lists[0])]


def fetcher(
    stub: StubProvider, rules: AddressRules = LOOPBACK, limits: FetchLimits | None = None, names: Names | None = None
) -> SafeFetcher:
    return SafeFetcher(OutboundPolicy(rules, frozenset({stub.port}), resolver=names or Names()), limits)


def url_of(stub: StubProvider, host: str = "127.0.0.1", path: str = "/a.wav") -> str:
    return f"http://{host}:{stub.port}{path}"


def lies_at(path: Path) -> tuple[bytes, int]:
    return path.read_bytes(), path.stat().st_mode & 0o777


def is_there(path: Path) -> bool:
    return path.exists()


async def failure(fetch: SafeFetcher, url: str, target: Path, max_bytes: int = LIMIT) -> IngleError:
    with pytest.raises(IngleError) as caught:
        await fetch.fetch(url, target, max_bytes=max_bytes)
    assert not is_there(target)
    return caught.value


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "input.bin"


async def test_a_permitted_address_is_fetched_without_anything_of_ours(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    names = Names({"audio.example": [["127.0.0.1"]]})
    async with stub_provider(SOUND) as stub:
        size = await fetcher(stub, names=names).fetch(url_of(stub, "audio.example"), target, max_bytes=LIMIT)
        [request] = stub.requests
    assert (size, *lies_at(target)) == (9, b"RIFFsound", 0o600)
    assert request.headers == {
        "host": f"audio.example:{stub.port}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "connection": "keep-alive",
        "user-agent": "ingle",
    }


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "0x7f.1", "2130706433", "0177.0.0.1", "0", "[::1]", "[::ffff:127.0.0.1]", "localhost"),
        *("\u2460\u2461\u2466.0.0.1", "a@127.0.0.1", "\u24dbocalhost", "nowhere.example", "dotted.example."),
    ],
)
async def test_this_machine_is_refused_however_it_is_spelled(host: str, target: Path) -> None:
    names = Names({"dotted.example.": [["127.0.0.1"]]})
    async with stub_provider(SOUND) as stub:
        refusal = await failure(fetcher(stub, AddressRules(), names=names), url_of(stub, host), target)
        assert isinstance(refusal, UrlNotAllowed)
        assert stub.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "gopher://127.0.0.1:70/_",
        "data:audio/wav,x",
        "concat:http://a/|http://b/",
        "http:///a.wav",
        "http://127.0.0.1:22/",
        "http://127.0.0.1:PORT\\.good.example/",
        "http://127.0.0.1\t:PORT/",
        "http://127.0.0.1:PORT/\nHost: evil",
        "http://127.0.0.1 :PORT/",
        "http://user:pass@127.0.0.1:PORT/",
        "http://127.0.0.1:PORT/" + "a" * 2048,
        "//127.0.0.1:PORT/",
        "127.0.0.1:PORT",
    ],
)
async def test_what_readers_might_read_differently_is_refused(url: str, target: Path) -> None:
    async with stub_provider(SOUND) as stub:
        refusal = await failure(fetcher(stub), url.replace("PORT", str(stub.port)), target)
        assert isinstance(refusal, UrlNotAllowed)
        assert stub.requests == []


async def test_every_refusal_reads_the_same(target: Path) -> None:
    names = Names({"inside.example": [["10.0.0.1"]]})
    async with stub_provider(Reply(302, {"location": "http://10.0.0.1/"})) as stub:
        closed = fetcher(stub, names=names)
        urls = [
            url_of(stub, "inside.example"),
            url_of(stub, "nowhere.example"),
            url_of(stub),
            "http://127.0.0.1:1/",
        ]
        refusals = [await failure(closed, url, target) for url in urls]
        nobody_there = SafeFetcher(OutboundPolicy(LOOPBACK, frozenset({1})))
        refusals.append(await failure(nobody_there, "http://127.0.0.1:1/", target))
    assert {(type(refusal), str(refusal), str(refusal.details)) for refusal in refusals} == {
        (UrlNotAllowed, str(UrlNotAllowed()), "{}")
    }


async def test_a_name_that_changes_its_mind_is_asked_once_for_each_connection(target: Path) -> None:
    names = Names({"rebind.example": [["127.0.0.1"], ["10.0.0.1"]]})
    async with stub_provider(SOUND) as stub:
        await fetcher(stub, names=names).fetch(url_of(stub, "rebind.example"), target, max_bytes=LIMIT)
    assert names.asked == ["rebind.example"]


async def test_a_name_that_is_public_at_first_and_private_at_the_redirect_is_refused(target: Path) -> None:
    names = Names({"rebind.example": [["127.0.0.1"], ["10.0.0.1"]]})
    async with stub_provider(Reply(302, {"location": "/again"}), SOUND) as stub:
        refusal = await failure(fetcher(stub, names=names), url_of(stub, "rebind.example"), target)
        assert len(stub.requests) == 1
    assert isinstance(refusal, UrlNotAllowed)


async def test_public_and_private_answers_mixed_are_refused(target: Path) -> None:
    names = Names({"mixed.example": [["127.0.0.1", "10.0.0.1"]]})
    async with stub_provider(SOUND) as stub:
        refusal = await failure(fetcher(stub, names=names), url_of(stub, "mixed.example"), target)
        assert (type(refusal), stub.requests) == (UrlNotAllowed, [])


async def test_an_address_where_nobody_answers_gives_way_to_the_next(target: Path) -> None:
    rules = AddressRules((ip_network("127.0.0.0/8"),))
    names = Names({"two.example": [["127.0.0.2", "127.0.0.1"]]})
    async with stub_provider(SOUND) as stub:
        fetch = fetcher(stub, rules, names=names)
        assert await fetch.fetch(url_of(stub, "two.example"), target, max_bytes=LIMIT) == 9


@pytest.mark.parametrize(
    "location",
    ["http://169.254.169.254/latest", "http://10.0.0.1/", "file:///etc/passwd", "//[::1]/", "http://a\\b/", ""],
)
async def test_a_redirect_is_judged_from_the_beginning(location: str, target: Path) -> None:
    async with stub_provider(Reply(302, {"location": location})) as stub:
        assert isinstance(await failure(fetcher(stub), url_of(stub), target), UrlNotAllowed)
        assert len(stub.requests) == 1


async def test_three_redirects_are_followed_and_no_fourth(target: Path) -> None:
    elsewhere = Reply(301, {"location": "/there"})
    async with stub_provider(elsewhere, elsewhere, elsewhere, SOUND) as stub:
        assert await fetcher(stub).fetch(url_of(stub), target, max_bytes=LIMIT) == 9
    async with stub_provider(elsewhere) as stub:
        assert isinstance(await failure(fetcher(stub), url_of(stub), target.with_suffix(".2")), DownloadFailed)
        assert len(stub.requests) == 4


@pytest.mark.parametrize("status", [204 + 96, 400, 404, 500, 503])
async def test_an_answer_other_than_success_tells_its_status(status: int, target: Path) -> None:
    async with stub_provider(Reply(status)) as stub:
        failed = await failure(fetcher(stub), url_of(stub), target)
    assert isinstance(failed, DownloadFailed)
    assert failed.details == {"upstream_status": status}


@pytest.mark.parametrize("headers", [{}, {"content-length": "2000"}, {"content-length": "9" * 12}])
async def test_more_than_may_come_is_refused_whatever_its_length_says(headers: dict[str, str], target: Path) -> None:
    async with stub_provider(Reply(headers=headers, pieces=(b"x" * 1000,) * 2)) as stub:
        refusal = await failure(fetcher(stub), url_of(stub), target, max_bytes=1999)
    assert isinstance(refusal, DownloadTooLarge)


async def test_an_answer_shorter_than_it_says_is_told(target: Path) -> None:
    async with stub_provider(Reply(headers={"content-length": "10"}, pieces=(b"RIFF",))) as stub:
        assert isinstance(await failure(fetcher(stub), url_of(stub), target), DownloadFailed)


async def test_what_is_compressed_unasked_is_refused(target: Path) -> None:
    async with stub_provider(Reply(headers={"content-encoding": "gzip"}, pieces=(b"\x1f\x8b",))) as stub:
        assert isinstance(await failure(fetcher(stub), url_of(stub), target), DownloadFailed)


DRIP = tuple(piece for _ in range(200) for piece in (b"x", 0.05))


@pytest.mark.parametrize(
    ("pieces", "limits"),
    [
        ((None,), QUICK),
        ((b"RIFF", None), QUICK),
        (DRIP, QUICK),
        ((b"x" * 4096, *DRIP), FetchLimits(1.0, 0.3, 30.0, total=0.4)),
    ],
    ids=["no body", "half a body", "a drip", "longer than all may take"],
)
async def test_what_comes_too_slowly_ends_in_time(
    pieces: tuple[bytes | float | None, ...], limits: FetchLimits, target: Path
) -> None:
    async with stub_provider(Reply(pieces=pieces)) as stub:
        began = time.monotonic()
        assert isinstance(await failure(fetcher(stub, limits=limits), url_of(stub), target), DeadlineExceeded)
        assert time.monotonic() - began < 5


async def test_a_server_that_says_nothing_at_all_ends_in_time(target: Path) -> None:
    async with stub_provider(Reply(0, pieces=(None,))) as stub:
        assert isinstance(await failure(fetcher(stub, limits=QUICK), url_of(stub), target), DeadlineExceeded)


async def test_few_at_once_some_wait_and_the_rest_is_sent_away(tmp_path: Path) -> None:
    limits = FetchLimits(1.0, 5.0, 5.0, 10.0, at_once=2, waiting=3)
    async with stub_provider(Reply(pieces=(None,))) as stub:
        fetch = fetcher(stub, limits=limits)
        tasks = [
            asyncio.create_task(fetch.fetch(url_of(stub), tmp_path / str(number), max_bytes=LIMIT))
            for number in range(6)
        ]
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert [type(task.exception()) for task in done] == [Overloaded]
        async with asyncio.timeout(5):
            while len(stub.requests) < 2:  # noqa: ASYNC110 (a stub tells nobody)
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        assert len(stub.requests) == 2
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    assert not any(is_there(tmp_path / str(number)) for number in range(6))


async def test_checking_asks_nobody_but_the_resolver() -> None:
    names = Names({"inside.example": [["10.0.0.1"]], "open.example": [["127.0.0.1"]]})
    async with stub_provider(SOUND) as stub:
        fetch = fetcher(stub, names=names)
        with pytest.raises(UrlNotAllowed):
            await fetch.check(url_of(stub, "inside.example"))
        await fetch.check(url_of(stub, "open.example"))
        assert stub.requests == []


async def test_the_certificate_must_be_for_the_name_and_not_for_the_address() -> None:
    offered: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _socket, name, _context: offered.append(name)

    async def nobody(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(nobody, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    names = Names({"tls.example": [["127.0.0.1"]]})
    transport = CheckedTransport(OutboundPolicy(LOOPBACK, frozenset({port}), resolver=names))
    async with server, httpx2.AsyncClient(transport=transport) as client:
        with pytest.raises(Refused):
            await client.get(f"https://tls.example:{port}/")
    assert offered == ["tls.example"]


async def test_a_log_holds_scheme_and_host_only(target: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with stub_provider(SOUND) as stub:
        await failure(fetcher(stub, AddressRules()), url_of(stub, path="/secret?token=canary"), target)
    assert "http://127.0.0.1" in caplog.text
    assert "canary" not in caplog.text
    assert "secret" not in caplog.text

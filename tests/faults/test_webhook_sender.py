"""Webhooks to receivers that redirect, hang, never end, or turn out to be somebody else, over real sockets."""

import time
from ipaddress import ip_network

import pytest

from domain.errors import DeadlineExceeded, DownloadFailed, IngleError, UrlNotAllowed
from infrastructure.addresses import AddressRules
from infrastructure.outbound import OutboundPolicy
from infrastructure.webhook_sender import SafeWebhookSender
from tests.faults.test_fetch import Names
from tests.providers.stub import JSON, Reply, StubProvider, stub_provider

LOOPBACK = AddressRules((ip_network("127.0.0.1/32"),))
OK = Reply(headers={"content-length": "2"}, pieces=(b"ok",))
BODY = b'{"type":"job.completed"}'
HEADERS = {"content-type": "application/json", "webhook-id": "msg_1"}


def sender(
    stub: StubProvider, rules: AddressRules = LOOPBACK, names: Names | None = None, *, seconds: float = 2.0
) -> SafeWebhookSender:
    # Without certificates of their own the receivers of these tests speak plain HTTP.
    policy = OutboundPolicy(rules, frozenset({stub.port}), frozenset({"http"}), resolver=names or Names())
    return SafeWebhookSender(policy, seconds=seconds)


def url_of(stub: StubProvider, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{stub.port}/hook"


async def test_a_receiver_gets_body_and_headers_as_they_are_and_its_status_is_told() -> None:
    async with stub_provider(OK) as stub:
        assert await sender(stub).send(url_of(stub), HEADERS, BODY) == 200
        [request] = stub.requests
    assert (request.method, request.path, request.body) == ("POST", "/hook", {"type": "job.completed"})
    assert (request.headers["webhook-id"], request.headers["content-length"]) == ("msg_1", str(len(BODY)))
    assert "authorization" not in request.headers
    assert "cookie" not in request.headers


@pytest.mark.parametrize("status", [301, 302, 307, 308, 410, 500])
async def test_whatever_it_answers_is_told_and_followed_nowhere(status: int) -> None:
    async with stub_provider(OK) as target:
        away = Reply(status, {"location": url_of(target), "content-length": "0"})
        async with stub_provider(away) as stub:
            assert await sender(stub).send(url_of(stub), HEADERS, BODY) == status
        assert target.requests == []


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(status=0, pieces=(None,)), DeadlineExceeded),
        (Reply(headers={"content-length": "9"}, pieces=(b"o", None)), DeadlineExceeded),
        (Reply(headers=JSON, pieces=(b"o", *((0.05, b"o") * 200))), DeadlineExceeded),
        (Reply(status=0), DownloadFailed),
    ],
    ids=["hangs", "hangs in its answer", "drips", "hangs up"],
)
async def test_a_receiver_that_does_not_answer_is_left_in_time(reply: Reply, kind: type[IngleError]) -> None:
    async with stub_provider(reply) as stub:
        began = time.monotonic()
        with pytest.raises(kind):
            await sender(stub, seconds=0.4).send(url_of(stub), HEADERS, BODY)
        assert time.monotonic() - began < 5


async def test_of_an_endless_answer_only_the_beginning_is_read() -> None:
    endless = Reply(headers=JSON, pieces=(b"x" * (1 << 16),) * 2000)
    async with stub_provider(endless) as stub:
        assert await sender(stub).send(url_of(stub), HEADERS, BODY) == 200
        await stub.gone.wait()


@pytest.mark.parametrize("host", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "[::1]", "0x7f.1"])
async def test_an_address_within_is_refused_at_create_and_at_each_send(host: str) -> None:
    async with stub_provider(OK) as stub:
        guarded = sender(stub, AddressRules())
        with pytest.raises(UrlNotAllowed):
            await guarded.check(url_of(stub, host))
        with pytest.raises(UrlNotAllowed):
            await guarded.send(url_of(stub, host), HEADERS, BODY)
        assert stub.requests == []


@pytest.mark.parametrize("inside", ["127.0.0.1", "169.254.169.254"])
async def test_a_name_that_changes_its_mind_after_the_check_is_refused_when_it_is_sent_to(inside: str) -> None:
    names = Names({"hooks.example": [["93.184.216.34"], [inside]]})
    async with stub_provider(OK) as stub:
        guarded = sender(stub, AddressRules(), names)
        await guarded.check(url_of(stub, "hooks.example"))
        with pytest.raises(UrlNotAllowed):
            await guarded.send(url_of(stub, "hooks.example"), HEADERS, BODY)
        assert stub.requests == []
    assert names.asked == ["hooks.example"] * 2


async def test_metadata_is_refused_whatever_is_opened() -> None:
    rules = AddressRules((ip_network("0.0.0.0/0"),), ("hooks.example",))
    names = Names({"hooks.example": [["169.254.169.254"]]})
    async with stub_provider(OK) as stub:
        with pytest.raises(UrlNotAllowed):
            await sender(stub, rules, names).send(url_of(stub, "hooks.example"), HEADERS, BODY)


async def test_only_https_is_spoken_where_nothing_else_is_said() -> None:
    policy = OutboundPolicy(LOOPBACK, schemes=frozenset({"https"}))
    with pytest.raises(UrlNotAllowed):
        await SafeWebhookSender(policy).check("http://127.0.0.1/hook")

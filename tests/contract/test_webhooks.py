"""Webhooks: signed, the same at every try, tried again for as long as the schedule says."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Mapping

import pytest

from application.job_ports import DeliveryStatus, Tried
from application.webhooks import PAUSES, Webhooks, WebhookSecrets, signature
from domain.errors import CallbackRefused, DeadlineExceeded, WebhookSecretMissing
from domain.job_repository import Claim, Complete, Settlement
from infrastructure.persistence.outbox import SqlOutbox
from tests.api.world import until
from tests.contract.conftest import Keeper, new_job
from tests.databases import Kept
from tests.fakes.clock import FakeClock
from tests.fakes.webhooks import FakeReceiver

URL = "https://hooks.example/jobs"
KEYS = [b"new key", b"old key"]


@pytest.fixture
def kept(database_keeper: Keeper) -> Kept:
    assert database_keeper.kept is not None
    return database_keeper.kept


def made(kept: Kept, receiver: FakeReceiver) -> tuple[Webhooks, SqlOutbox]:
    outbox = SqlOutbox(kept.database)
    return Webhooks(kept.jobs, outbox, receiver, WebhookSecrets({"telephony": KEYS}), FakeClock()), outbox


async def completed(kept: Kept, result: object = "ok", *, include_result: bool = True, url: str = URL) -> str:
    await kept.jobs.add([new_job(callback_url=url, include_result=include_result)])
    [job] = await kept.jobs.claim(Claim("w", 1))
    await kept.jobs.settle(Settlement(job.id, Complete(result, "a" * 64), job.lease_token))
    return job.id


def test_a_signature_is_that_of_standard_webhooks() -> None:
    # The test vector that the libraries of Standard Webhooks share.
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    signed = signature([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_an_end_is_told_once_signed_with_every_key(kept: Kept) -> None:
    receiver = FakeReceiver()
    webhooks, outbox = made(kept, receiver)
    job_id = await completed(kept, {"text": "ok"})
    assert [await webhooks.dispatch() for _ in range(2)] == [1, 0]
    [(url, headers, body)] = receiver.sent
    event = json.loads(body)
    assert (url, event["type"], event["id"]) == (URL, "job.completed", headers["webhook-id"])
    assert event["data"]["job_id"] == job_id
    assert event["data"]["result"] == {"text": "ok"}
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in KEYS]
    assert headers["webhook-signature"] == " ".join(f"v1,{one}" for one in wanted)
    [delivery] = await outbox.deliveries(10)
    assert (delivery.status, delivery.tries, delivery.last_status) == (DeliveryStatus.DELIVERED, 1, 200)


async def test_a_result_that_was_not_asked_for_or_is_large_is_only_pointed_to(kept: Kept) -> None:
    receiver = FakeReceiver()
    webhooks, _ = made(kept, receiver)
    quiet = await completed(kept, include_result=False)
    large = await completed(kept, "x" * 70_000)
    await webhooks.dispatch()
    told = {event["data"]["job_id"]: event["data"] for event in (json.loads(body) for _, _, body in receiver.sent)}
    assert {told[one]["result"] for one in (quiet, large)} == {None}
    assert told[large]["result_url"] == f"/api/v1/jobs/{large}"


@pytest.mark.parametrize("answer", [500, 302, 404, DeadlineExceeded("late")])
async def test_what_is_not_taken_is_told_again_the_same_until_the_schedule_ends(
    kept: Kept, answer: int | Exception
) -> None:
    receiver = FakeReceiver([answer])
    webhooks, outbox = made(kept, receiver)
    await completed(kept)
    for pause in (*PAUSES, 0):
        assert await webhooks.dispatch() == 1
        assert await webhooks.dispatch() == 0
        await kept.advance(1000 * pause + 1)
    [delivery] = await outbox.deliveries(10)
    assert (delivery.status, delivery.tries) == (DeliveryStatus.FAILED, len(PAUSES) + 1)
    assert len({body for _, _, body in receiver.sent}) == 1
    assert len({headers["webhook-id"] for _, headers, _ in receiver.sent}) == 1


async def test_an_endpoint_that_is_gone_is_told_nothing_more_and_no_new_job_may_name_it(kept: Kept) -> None:
    receiver = FakeReceiver([410])
    webhooks, outbox = made(kept, receiver)
    await webhooks.admit("telephony", URL)
    await completed(kept)
    await webhooks.dispatch()
    await kept.advance(100_000_000)
    assert await webhooks.dispatch() == 0
    with pytest.raises(CallbackRefused):
        await webhooks.admit("telephony", URL)
    receiver.answers = [200]
    [delivery] = await outbox.deliveries(10)
    await outbox.redeliver(delivery.id)
    assert await webhooks.dispatch() == 1
    await webhooks.admit("telephony", URL)


async def test_a_callback_without_a_secret_or_to_an_address_that_is_refused_is_not_admitted(kept: Kept) -> None:
    webhooks, _ = made(kept, FakeReceiver(refused=frozenset({"https://10.0.0.1/"})))
    with pytest.raises(WebhookSecretMissing):
        await webhooks.admit("billing", URL)
    for url in ("http://hooks.example/", "https://10.0.0.1/"):
        with pytest.raises(CallbackRefused):
            await webhooks.admit("telephony", url)


class HangingHost(FakeReceiver):
    """Answers for every host but one, which holds whoever asks until `gate` opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.held = 0
        self.most_held = 0

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        if "hangs" in url:
            self.held += 1
            self.most_held = max(self.held, self.most_held)
            await self.gate.wait()
            self.held -= 1
        return await super().send(url, headers, body)


async def test_a_host_that_hangs_is_asked_twice_at_a_time_and_holds_up_nobody_else(kept: Kept) -> None:
    receiver = HangingHost()
    webhooks, outbox = made(kept, receiver)
    for number in range(4):
        await completed(kept, url=f"https://hangs.example:{8000 + number}/")
    rounds = [asyncio.create_task(webhooks.dispatch())]
    await until(lambda: receiver.held == 2)
    await completed(kept)
    rounds.append(asyncio.create_task(webhooks.dispatch()))
    await until(lambda: [url for url, _, _ in receiver.sent] == [URL])
    receiver.gate.set()
    await asyncio.gather(*rounds)
    assert receiver.most_held == 2
    assert len(receiver.sent) == 5
    assert {one.status for one in await outbox.deliveries(10)} == {DeliveryStatus.DELIVERED}


async def test_a_delivery_that_finds_no_seat_is_put_back_untried(kept: Kept) -> None:
    receiver = HangingHost()
    webhooks, outbox = made(kept, receiver)
    await completed(kept, url="https://hangs.example/")
    [taken] = await outbox.take(1)
    await outbox.postpone(taken.id, 10_000)
    assert await outbox.take(1) == []
    await kept.advance(10_000)
    [again] = await outbox.take(1)
    assert (again.id, again.tries) == (taken.id, 1)
    assert await webhooks.dispatch() == 0


class DyingOutbox(SqlOutbox):
    """An outbox whose process dies before it can note how a try ended."""

    async def tried(self, delivery_id: str, outcome: Tried) -> None:
        raise KeyboardInterrupt


async def test_one_who_dies_after_sending_sends_twice_under_the_same_id(kept: Kept) -> None:
    receiver = FakeReceiver()
    _, outbox = made(kept, receiver)
    dying = Webhooks(kept.jobs, DyingOutbox(kept.database), receiver, WebhookSecrets({"telephony": KEYS}), FakeClock())
    await completed(kept)
    [delivery] = await outbox.take(1)
    with pytest.raises(KeyboardInterrupt):
        await dying._tell(delivery)
    webhooks, _ = made(kept, receiver)
    assert await webhooks.dispatch() == 0
    await kept.advance(60_000)
    assert await webhooks.dispatch() == 1
    first, second = receiver.sent
    assert (first[1]["webhook-id"], first[2]) == (second[1]["webhook-id"], second[2])


async def test_while_keys_rotate_both_sign_and_an_owner_without_its_own_has_those_of_everybody() -> None:
    secrets = WebhookSecrets({"telephony": [b"new", b"old"], "*": [b"anybody"]})
    signed = signature(secrets.of("telephony"), "msg_1", 1, b"{}").split(" ")
    assert signed == [signature([key], "msg_1", 1, b"{}") for key in (b"new", b"old")]
    assert secrets.of("billing") == [b"anybody"]

"""Events of jobs are told to their callbacks, signed as Standard Webhooks say, at least once and in no order."""

import asyncio
import base64
import hashlib
import hmac
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from application.job_ports import Delivery, DeliveryStatus, Outbox, Tried
from application.ports import Clock
from domain.errors import CallbackRefused, IngleError, JobNotFound, UrlNotAllowed, WebhookSecretMissing
from domain.job_repository import JobRepository
from domain.json_text import is_large

AT_ONCE = 20
PER_HOST = 2
MAX_RESULT = 64 << 10
PAUSES = (5, 30, 120, 600, 3600, 21_600, 86_400)
"""Seconds before the second, third, … try."""
GONE = 410
ANYBODY = "*"
SEAT_SECONDS = 2.0
"""How long a delivery waits for one of its host's two before it is put back, so that others need not wait for it."""
LATER_MS = 10_000
_LEAST_JITTER = 0.8


class WebhookSender(Protocol):
    """Posts to addresses that strangers named: https only, never to this machine's own network, no redirect followed.

    Nobody waits longer than ten seconds for an answer, and none of it is kept but its status.
    """

    async def check(self, url: str) -> None:
        """Raise UrlNotAllowed if `send` would, as far as that can be known without connecting."""
        ...

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """The status of the answer. Raises UrlNotAllowed, DownloadFailed, DeadlineExceeded."""
        ...


@dataclass(frozen=True, slots=True)
class WebhookSecrets:
    """Keys to sign with, by owner; those of `*` are for owners without their own. More than one while they rotate."""

    by_owner: Mapping[str, Sequence[bytes]]

    def of(self, owner_service: str) -> Sequence[bytes]:
        """The keys for that owner, newest first; none if there is none."""
        return self.by_owner.get(owner_service) or self.by_owner.get(ANYBODY, ())


def signature(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`: one signature for each key."""
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    digests = (hmac.digest(key, signed, hashlib.sha256) for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


class Webhooks:
    """Says who may be told, and tells them what lies in the outbox."""

    def __init__(
        self, jobs: JobRepository, outbox: Outbox, sender: WebhookSender, secrets: WebhookSecrets, clock: Clock
    ) -> None:
        self._jobs = jobs
        self._outbox = outbox
        self._sender = sender
        self._secrets = secrets
        self._clock = clock
        self._seats: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def admit(self, owner_service: str, url: str) -> None:
        """Raise WebhookSecretMissing or CallbackRefused where events of that owner cannot be told to `url`."""
        if not self._secrets.of(owner_service):
            raise WebhookSecretMissing
        try:
            await self._sender.check(url)
        except UrlNotAllowed:
            raise CallbackRefused("callback_url must be https, and lead to a public address") from None
        if await self._outbox.is_gone(owner_service, url):
            raise CallbackRefused("callback_url has answered 410 Gone: redeliver to it first")

    async def dispatch(self) -> int:
        """Tell what is due, at most twenty at once; returns how many were due.

        May be called while an earlier call is still under way: a host that hangs holds up nobody but itself.
        """
        due = await self._outbox.take(AT_ONCE)
        await asyncio.gather(*map(self._tell, due))
        return len(due)

    async def _tell(self, delivery: Delivery) -> None:
        """Tell one, as soon as its host has a seat, or put it back."""
        host = urlsplit(delivery.endpoint).hostname or ""
        seats = self._seats.setdefault(host, asyncio.Semaphore(PER_HOST))
        try:
            await asyncio.wait_for(seats.acquire(), SEAT_SECONDS)
        except TimeoutError:
            await self._outbox.postpone(delivery.id, LATER_MS)
            return
        try:
            await self._tell_now(delivery)
        finally:
            seats.release()

    async def _tell_now(self, delivery: Delivery) -> None:
        keys = self._secrets.of(delivery.owner_service)
        if not keys:
            await self._after_failure(delivery, None, "this server has no secret for that owner")
            return
        try:
            body = await self._body(delivery)
        except JobNotFound:
            await self._outbox.tried(delivery.id, Tried(DeliveryStatus.FAILED, error="the job is gone"))
            return
        message_id, now = f"msg_{delivery.id}", int(self._clock.now())
        headers = {
            **(delivery.headers or {}),
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(now),
            "webhook-signature": signature(keys, message_id, now, body),
        }
        try:
            status = await self._sender.send(delivery.endpoint, headers, body)
        except IngleError as error:
            await self._after_failure(delivery, None, str(error))
            return
        if 200 <= status < 300:
            await self._outbox.tried(delivery.id, Tried(DeliveryStatus.DELIVERED, status))
        elif status == GONE:
            await self._outbox.tried(delivery.id, Tried(DeliveryStatus.GONE, status, "410 Gone"))
        else:
            await self._after_failure(delivery, status, f"answered {status}")

    async def _after_failure(self, delivery: Delivery, status: int | None, error: str) -> None:
        if delivery.tries > len(PAUSES):
            await self._outbox.tried(delivery.id, Tried(DeliveryStatus.FAILED, status, error))
            return
        pause = PAUSES[delivery.tries - 1] * random.uniform(_LEAST_JITTER, 1)  # noqa: S311
        await self._outbox.tried(delivery.id, Tried(DeliveryStatus.QUEUED, status, error, round(1000 * pause)))

    async def _body(self, delivery: Delivery) -> bytes:
        """What every try sends: written at the first, and kept."""
        if delivery.body is None:
            text = json.dumps(await self._event(delivery), ensure_ascii=False, separators=(",", ":"))
            await self._outbox.keep_body(delivery.id, text)
            return text.encode()
        return delivery.body.encode()

    async def _event(self, delivery: Delivery) -> Mapping[str, Any]:
        job = await self._jobs.get(delivery.job_id)
        # A job that has run again since has another result.
        shown = job.include_result and job.status == delivery.job_status and job.attempt == delivery.attempt
        # What is large by the quick count, which is never above four times the size, need not be written to know.
        small = shown and not is_large(job.result)
        small = small and len(json.dumps(job.result, ensure_ascii=False).encode()) <= MAX_RESULT
        at = datetime.fromtimestamp(delivery.created_at / 1000, UTC)
        return {
            "type": delivery.event,
            "id": f"msg_{delivery.id}",
            "created_at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "data": {
                "job_id": job.id,
                "owner_service": job.owner_service,
                "owner_ref": job.owner_ref,
                "status": delivery.job_status,
                "attempt": delivery.attempt,
                "error_code": delivery.error_code,
                "result": job.result if small else None,
                "result_url": f"/api/v1/jobs/{job.id}",
            },
        }

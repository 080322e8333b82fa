"""What owners do with jobs where something is to be decided: submit them, and change many at once.

Whoever only reads jobs, or changes one, asks the repository itself.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from uuid import UUID

from application.stored_files import StoredFiles
from domain.errors import CallbackRefused, StoredFileNotFound, WebhookSecretMissing
from domain.fairness import chat_cost, recording_cost
from domain.job_repository import Added, Cancel, Changed, JobFilter, JobRepository, Retry
from domain.new_job import NewBatch, NewJob
from domain.stored_file import FileUse, file_id_of

PAGE = 500
SHOWN_IDS = 100
MAX_COST = 1000.0
CHAT_TYPES = ("llm_chat", "chat_completion")
SPEECH_TYPES = ("transcribe", "transcribe_url")
HANDLED_TYPES = (*CHAT_TYPES, *SPEECH_TYPES, "embed", "generate")
"""What Ingle itself can run."""


class CallbackGate(Protocol):
    """Decides whether events may be told to an address at all."""

    async def admit(self, owner_service: str, url: str) -> None:
        """Raise CallbackRefused or WebhookSecretMissing if they may not."""
        ...


@dataclass(frozen=True, slots=True)
class JobDefaults:
    """What a job gets that does not say, by its type: the profile that runs it, and milliseconds for an attempt."""

    profiles: Mapping[str, str] = field(default_factory=dict)
    timeouts_ms: Mapping[str, int] = field(default_factory=dict)
    timeout_ms: int = 600_000

    def timeout_of(self, task_type: str) -> int:
        """Milliseconds that an attempt may take where neither job nor queue say."""
        return self.timeouts_ms.get(task_type, self.timeout_ms)


@dataclass(frozen=True, slots=True)
class Bulk:
    """What came of changing many jobs: `ids` are the first hundred that were changed, or would be."""

    matched: int
    changed: int
    ids: tuple[str, ...]


class JobQueue:
    """Submits jobs, one or many, and changes all those that a filter matches."""

    def __init__(self, jobs: JobRepository, callbacks: CallbackGate, files: StoredFiles) -> None:
        self._jobs = jobs
        self._callbacks = callbacks
        self._files = files

    async def submit(self, jobs: Sequence[NewJob], batch: NewBatch | None = None) -> Added:
        """Put jobs in line, all or none; see `JobRepository.add`.

        Raises CallbackRefused and WebhookSecretMissing too.
        """
        await self._admit([job for job in jobs if job.callback_url is not None])
        # Before the jobs: what they need must not go between the two.
        sizes = await self._files.use([use for job in jobs if (use := _use_of(job)) is not None])
        return await self._jobs.add([_weighed(job, sizes) for job in jobs] if sizes else jobs, batch)

    async def _admit(self, jobs: Sequence[NewJob]) -> None:
        """Raise CallbackRefused or WebhookSecretMissing where one of `jobs` may not call back and is not there yet."""
        try:
            for owner, url in dict.fromkeys((job.owner_service, job.callback_url) for job in jobs):
                await self._callbacks.admit(owner, url or "")
        except (CallbackRefused, WebhookSecretMissing):
            # What is asked for again is answered as before, whatever has become of its callback since.
            if not await self._are_there(jobs):
                raise

    async def _are_there(self, jobs: Sequence[NewJob]) -> bool:
        keys = {job.idempotency_key for job in jobs}
        known = {key for key in keys if key is not None}
        if len(known) < len(keys):
            return False
        wanted = JobFilter(owner_service=[jobs[0].owner_service], idempotency_key=sorted(known))
        return len((await self._jobs.search(wanted, len(known))).jobs) == len(known)

    async def change_all(self, action: Cancel | Retry, wanted: JobFilter, limit: int, *, dry_run: bool) -> Bulk:
        """Do that to the newest `limit` jobs that match, in steps; those to which it cannot be done stay as they are.

        Each step is a transaction. With `dry_run` nothing is done, and `changed` is 0.
        """
        matched = changed = 0
        ids: list[str] = []
        before: int | None = None
        while matched < limit:
            page = await self._jobs.search(wanted, min(PAGE, limit - matched), before)
            found = [job.id for job in page.jobs]
            matched += len(found)
            if dry_run:
                ids += found[: SHOWN_IDS - len(ids)]
            elif found:
                answers = await self._jobs.change(action, found, wanted.owners)
                moved = [one.job.id for one in answers if isinstance(one, Changed) and one.changed]
                changed += len(moved)
                ids += moved[: SHOWN_IDS - len(ids)]
            before = page.next_before
            if before is None:
                break
        return Bulk(matched, changed, tuple(ids))


def recording_of(task_type: str, given: Mapping[str, Any]) -> str | None:
    """The token of the file that a job of that type and input hears; None where it names none."""
    if task_type not in SPEECH_TYPES:
        return None
    token = given.get("file_path") or given.get("file_id")
    return token if isinstance(token, str) else None


def _use_of(job: NewJob) -> FileUse | None:
    token = recording_of(job.task_type, job.input)
    if token is None:
        return None
    try:
        return FileUse(file_id_of(token), job.id, job.owner_service)
    except StoredFileNotFound:
        # Inputs are judged by whoever runs the job.
        return None


def _weighed(job: NewJob, sizes: Mapping[str, int]) -> NewJob:
    """`job`, its cost estimated by the recording that it hears; `sizes` are in bytes, by file."""
    use = _use_of(job)
    if not job.estimated or use is None or use.file_id not in sizes:
        return job
    return replace(job, cost=min(MAX_COST, recording_cost(sizes[use.file_id])))


def new_job_id(now: float) -> str:
    """An id that nobody has; those of a later `now` (seconds since the epoch) sort later: UUID version 7."""
    milliseconds = int(now * 1000) & ((1 << 48) - 1)
    bits = milliseconds << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(UUID(int=bits))


def cost_of(task_type: str, given: Mapping[str, Any]) -> float:
    """An estimate of how much work a job is, 1 being a little."""
    if task_type not in CHAT_TYPES:
        return 1.0
    wish = given.get("max_tokens")
    tokens = wish if isinstance(wish, int) and not isinstance(wish, bool) and wish > 0 else 0
    return min(MAX_COST, chat_cost(_characters(given), tokens))


def _characters(given: Mapping[str, Any]) -> int:
    messages = given.get("messages")
    texts = [given.get("system"), given.get("user")]
    if isinstance(messages, list):
        texts += [message.get("content") for message in messages if isinstance(message, Mapping)]
    return sum(len(text) for text in texts if isinstance(text, str))

"""Files for jobs, remembered in memory."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from domain.errors import StoredFileNotFound
from domain.job import Job, JobStatus
from domain.stored_file import AFTER_FAILURE_MS, ANYBODY, UNUSED_MS, FileUse, StoredFile
from tests.fakes.jobs import InMemoryJobRepository


class InMemoryFileRecords:
    """FileRecords beside jobs in memory, whose clock it goes by."""

    def __init__(self, jobs: InMemoryJobRepository) -> None:
        self._jobs = jobs
        self.files: dict[str, StoredFile] = {}
        self.uses: dict[str, set[str]] = {}

    async def add(self, file_id: str, owner_service: str, size: int) -> StoredFile:
        """Note a file."""
        now = self._jobs.now()
        file = self.files[file_id] = StoredFile(file_id, owner_service, size, now, now + UNUSED_MS)
        self.uses[file_id] = set()
        return file

    async def find(self, file_id: str, owners: Collection[str] | None = None) -> StoredFile:
        """That file."""
        file = self.files.get(file_id)
        if file is None or (owners is not None and file.owner_service not in (ANYBODY, *owners)):
            raise StoredFileNotFound
        return file

    async def use(self, uses: Sequence[FileUse]) -> Mapping[str, int]:
        """Note that jobs use files; their sizes."""
        sizes: dict[str, int] = {}
        for use in uses:
            file = self.files.get(use.file_id)
            if file is not None and file.owner_service in (ANYBODY, use.owner_service):
                self.uses[file.id].add(use.job_id)
                sizes[file.id] = file.size
        return sizes

    async def forget(self, file_id: str) -> None:
        """That file is not kept any more."""
        self.files.pop(file_id, None)
        self.uses.pop(file_id, None)

    async def take_due(self, limit: int) -> Sequence[str]:
        """Forget files that are due."""
        due = [file.id for file in self.files.values() if self._is_due(file)][:limit]
        for file_id in due:
            del self.files[file_id], self.uses[file_id]
        return due

    def _is_due(self, file: StoredFile) -> bool:
        used = self.uses[file.id]
        # The log outlives the jobs.
        if any(job_id in self._jobs.log and job_id not in self._jobs.jobs for job_id in used):
            file = replace(file, expires_at=self._jobs.now())
        jobs = [self._jobs.jobs[job_id] for job_id in used if job_id in self._jobs.jobs]
        return (bool(jobs) or file.expires_at <= self._jobs.now()) and not any(map(self._keeps, jobs))

    def _keeps(self, job: Job) -> bool:
        if job.status is JobStatus.FAILED:
            return (job.finished_at or 0) > self._jobs.now() - AFTER_FAILURE_MS
        return not job.status.terminal

    async def known(self, file_ids: Collection[str]) -> Collection[str]:
        """Those that there are."""
        return self.files.keys() & set(file_ids)

"""Files that are kept for jobs: how callers name them, and for how long they are there."""

from dataclasses import dataclass
from uuid import UUID

from domain.errors import StoredFileNotFound
from domain.new_job import DAY_MS

UNUSED_MS = DAY_MS
"""How long a file is kept that no job has taken up."""

AFTER_FAILURE_MS = DAY_MS
"""How long the file of a job that failed is kept, so that the job can be retried."""

ANYBODY = ""
"""The owner of what was uploaded where nobody needs a key."""

_PREFIX = "files/"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that is kept. `owner_service` may use it, or all may where it is ANYBODY; times as those of jobs."""

    id: str
    owner_service: str
    size: int
    created_at: int
    expires_at: int

    @property
    def token(self) -> str:
        """What callers call it; it tells nothing of where it lies."""
        return f"{_PREFIX}{self.id}"


@dataclass(frozen=True, slots=True)
class FileUse:
    """A job that refers to a file. It counts if the job's owner may use the file."""

    file_id: str
    job_id: str
    owner_service: str


def file_id_of(token: str) -> str:
    """The id in a token, or the bare id. Raises StoredFileNotFound for anything else, paths above all."""
    text = token.removeprefix(_PREFIX)
    try:
        if len(text) == 36 and str(UUID(text)) == text:
            return text
    except ValueError:
        pass
    raise StoredFileNotFound

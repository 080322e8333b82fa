"""What runs a job of some type, and what the queue calls the failures of whoever runs it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from domain import errors
from domain.errors import IngleError
from domain.job import Job
from domain.job_repository import Fail

Tell = Callable[[Mapping[str, Any]], None]
"""Keeps how far a job has come; it is told at the next heartbeat."""


@dataclass(frozen=True, slots=True)
class JobDone:
    """What came of a job: any JSON, and the tokens that it took, if it took tokens."""

    result: Any
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Weighed:
    """How many bytes a result takes as JSON, and the hash of its canonical form."""

    size: int
    sha256: str


Weigh = Callable[[Any], Weighed]
"""Weighs a result. Raises ValueError or TypeError for what JSON cannot say."""


class JobHandler(Protocol):
    """Runs jobs of a type through the use cases that HTTP runs. Cancelling it ends the work at once."""

    async def __call__(self, job: Job, tell: Tell) -> JobDone:
        """What comes of `job`; raises what the use case raises, and InvalidRequest for an input it cannot read."""
        ...


# The nearest class in this table says the code; what is not in it is an error of ours.
CODES: Mapping[type[IngleError], str] = {
    errors.InvalidRequest: "bad_input",
    errors.UnsupportedCapability: "unsupported_task",
    errors.NotOffered: "unsupported_task",
    errors.ContextLengthExceeded: "context_length",
    errors.UrlNotAllowed: "bad_input",
    errors.DownloadTooLarge: "bad_audio",
    errors.DownloadFailed: "dependency_error",
    errors.AudioRefused: "bad_audio",
    errors.StoredFileNotFound: "bad_input",
    errors.StoredFileMissing: "storage_error",
    errors.ModelNotFound: "model_unavailable",
    errors.ModelNotLoaded: "model_unavailable",
    errors.ModelLoadFailed: "model_unavailable",
    errors.ModelsFolderUnusable: "storage_error",
    errors.InsufficientStorage: "storage_error",
    errors.InsufficientMemory: "out_of_memory",
    errors.ModelLoading: "model_loading",
    errors.EngineUnavailable: "model_unavailable",
    errors.Overloaded: "capacity",
    errors.ModelBusy: "capacity",
    errors.ServerDraining: "capacity",
    errors.RateLimited: "rate_limited",
    errors.ProviderUnavailable: "provider_unavailable",
    errors.ProviderError: "provider_error",
    errors.ProviderRefusesKey: "auth_error",
    errors.BadResponse: "bad_response",
    errors.DeadlineExceeded: "timeout",
}
UNKNOWN = "internal_error"

_SECRETS = re.compile(r"\bsk-[A-Za-z0-9_-]{4,}|\bBearer\s+\S+", re.IGNORECASE)


def failure_of(error: Exception) -> Fail:
    """What is reported of `error`. Nothing is told of a bug but that there was one."""
    if not isinstance(error, IngleError):
        return Fail(UNKNOWN, "an internal error occurred")
    code = next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), UNKNOWN)
    after = error.retry_after_seconds if isinstance(error, errors.Overloaded) else 0.0
    return Fail(code, without_secrets(_naming_its_field(error)), retry_after_ms=min(3_600_000, round(1000 * after)))


def _naming_its_field(error: IngleError) -> str:
    """The message; a job has no list of problems beside it that would say which part of the input is meant."""
    message = str(error)
    field = error.field if isinstance(error, errors.InvalidRequest) else None
    return message if field is None or re.search(rf"\b{re.escape(field)}\b", message) else f"{field}: {message}"


def without_secrets(text: str) -> str:
    """`text` without what looks like a key in it, as the messages of other servers may have."""
    return _SECRETS.sub("***", text)

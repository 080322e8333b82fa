"""The tree of failures. None of them knows an HTTP status; `api/errors.py` maps each to one.

An error's docstring is its message when the raiser gives none. `code` is stable and machine-readable,
`retryable` says whether the same request may succeed later, `details` carries the figures that a caller
can act on (bytes needed, devices there are, nearest names) and nothing secret.
"""

from collections.abc import Sequence
from typing import ClassVar


class IngleError(Exception):
    """Something went wrong in Ingle."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None, **details: object) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())
        self.details = details


# -- the request itself ------------------------------------------------------------------------------


class InvalidRequest(IngleError):
    """A field of the request has a value that is not allowed."""

    code = "validation_error"

    def __init__(self, message: str | None = None, *, field: str | None = None, **details: object) -> None:
        super().__init__(message, **details)
        self.field = field


class UnsupportedParameter(InvalidRequest):
    """A field of the request asks for something that is not offered here."""

    code = "unsupported_parameter"


class UnsupportedCapability(InvalidRequest):
    """The model cannot do what was asked of it."""

    code = "unsupported_capability"


class ContextLengthExceeded(InvalidRequest):
    """The prompt does not fit into the model's context."""

    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, context_length: int) -> None:
        super().__init__(
            f"the prompt has {prompt_tokens} tokens and the model's context holds {context_length}: "
            "shorten the prompt or load the model with a larger num_ctx",
            prompt_tokens=prompt_tokens,
            context_length=context_length,
        )


# -- models -------------------------------------------------------------------------------------------


class ModelNotFound(IngleError):
    """There is no model of that name here."""

    code = "model_not_found"

    def __init__(self, name: str, nearest: Sequence[str] = (), pull: str | None = None) -> None:
        message = f"model '{name}' not found"
        if pull:
            message += f": it is in the catalogue but not installed, run `ingle models pull {pull}`"
        elif nearest:
            message += f": did you mean {' or '.join(repr(other) for other in nearest)}?"
        super().__init__(message, nearest=list(nearest))
        self.name = name


class ModelNotLoaded(IngleError):
    """The model is not in memory."""

    code = "model_not_loaded"


class ModelBusy(IngleError):
    """The model is in use."""

    code = "model_busy"
    retryable = True

    def __init__(self, name: str, in_flight: int) -> None:
        super().__init__(f"model '{name}' is serving {in_flight} request(s)", in_flight=in_flight)
        self.name = name


class ModelPinned(IngleError):
    """The model is pinned: unload it with force, or load it again without pin."""

    code = "model_pinned"


class ModelExists(IngleError):
    """That name belongs to another model."""

    code = "model_exists"


class ModelLoading(IngleError):
    """The model is still loading: ask again in a moment."""

    code = "model_loading"
    retryable = True


class ModelLoadFailed(IngleError):
    """The model could not be loaded."""

    code = "model_load_failed"


class DeviceNotAvailable(IngleError):
    """That device does not exist on this machine."""

    code = "device_not_available"

    def __init__(self, device: str, available: Sequence[str], reason: str | None = None) -> None:
        message = f"device '{device}' is not available here"
        if reason:
            message += f" ({reason})"
        super().__init__(f"{message}: choose one of {', '.join(available)}", available=list(available))


class InsufficientMemory(IngleError):
    """There is not enough memory for the model."""

    code = "insufficient_memory"


class InsufficientStorage(IngleError):
    """There is not enough free disk space."""

    code = "insufficient_storage"


class ModelsFolderUnusable(IngleError):
    """The folder of the models cannot be read or written."""

    code = "models_folder_unusable"


class DownloadFailed(IngleError):
    """The model could not be downloaded from any of its mirrors."""

    code = "download_failed"
    retryable = True


# -- running ------------------------------------------------------------------------------------------


class GenerationFailed(IngleError):
    """The model failed while working on this request."""

    code = "generation_failed"


class EngineUnavailable(IngleError):
    """The engine has stopped and is being replaced."""

    code = "engine_unavailable"
    retryable = True


class RequestCancelled(IngleError):
    """The request was cancelled."""

    code = "request_cancelled"


class Overloaded(IngleError):
    """The server is busy: too many requests are waiting."""

    code = "server_overloaded"
    retryable = True

    def __init__(self, message: str | None = None, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ServerDraining(IngleError):
    """The server is shutting down and takes no new work."""

    code = "server_draining"
    retryable = True


class DeadlineExceeded(IngleError):
    """The deadline passed before anything could be produced."""

    code = "deadline_exceeded"
    retryable = True


class NotOffered(IngleError):
    """This version of Ingle does not offer that."""

    code = "not_implemented"


# -- other servers --------------------------------------------------------------------------------------


class ProviderUnavailable(Overloaded):
    """The provider of this model cannot be reached: try again later."""

    code = "provider_unavailable"


class RateLimited(Overloaded):
    """The provider of this model takes no more requests for now."""

    code = "rate_limited"


class ProviderError(GenerationFailed):
    """The provider of this model failed."""

    code = "provider_error"
    retryable = True


class ProviderRefusesKey(GenerationFailed):
    """The provider of this model does not accept this server's key."""

    code = "auth_error"


class BadResponse(GenerationFailed):
    """The answer of this model's provider cannot be read."""

    code = "bad_response"
    retryable = True


class UrlNotAllowed(IngleError):
    """That address cannot be fetched from here."""

    code = "url_not_allowed"


class DownloadTooLarge(IngleError):
    """What lies at that address is larger than this server accepts."""

    code = "payload_too_large"


# -- audio --------------------------------------------------------------------------------------------


class AudioRefused(IngleError):
    """The upload is not audio that Ingle can read."""

    code = "invalid_audio"


class EmptyAudio(AudioRefused):
    """The upload holds no sound."""

    code = "empty_audio"


class NoAudioTrack(AudioRefused):
    """The upload is a video without a sound track."""

    code = "no_audio_track"


class AudioTooLong(AudioRefused):
    """The audio is longer than this server accepts."""

    code = "audio_too_long"


class DecodeTimeout(AudioRefused):
    """Decoding the audio took too long."""

    code = "decode_timeout"


# -- files that are kept --------------------------------------------------------------------------------


class StoredFileNotFound(IngleError):
    """There is no such file here any more: upload it again with purpose=transcribe."""

    code = "file_not_found"


class StoredFileMissing(IngleError):
    """The file is not on this machine's disk: let INGLE_FILES_DIR name one folder that all processes share."""

    code = "file_missing"


# -- jobs -----------------------------------------------------------------------------------------------


class JobNotFound(IngleError):
    """There is no job of that id here."""

    code = "not_found"


class LeaseLost(IngleError):
    """This attempt no longer holds the job."""

    code = "lease_lost"


class LeaseRequired(IngleError):
    """This needs the lease token that the claim gave."""

    code = "lease_required"


class InvalidTransition(IngleError):
    """The job is in a state from which this does not lead anywhere."""

    code = "invalid_transition"


class JobCompleted(IngleError):
    """The job is completed, and that is final."""

    code = "job_completed"


class AlreadyCompleted(IngleError):
    """The job was completed with another result, which stays."""

    code = "already_completed"


class DedupeConflict(IngleError):
    """Another job with this dedupe_key is pending or running."""

    code = "dedupe_conflict"


class IdempotencyMismatch(IngleError):
    """The idempotency key was used before for something else."""

    code = "idempotency_mismatch"


class PriorityAboveCap(IngleError):
    """The priority is above what this owner may ask for."""

    code = "priority_above_cap"


class QuotaExceeded(IngleError):
    """The owner has used up what it may have."""

    code = "quota_exceeded"
    retryable = True

    def __init__(self, message: str | None = None, *, retry_after_seconds: float = 1.0, **details: object) -> None:
        super().__init__(message, **details)
        self.retry_after_seconds = retry_after_seconds


class CallbackRefused(IngleError):
    """Events cannot be told to that address."""

    code = "callback_refused"


class WebhookSecretMissing(IngleError):
    """A callback_url needs a secret to sign with, and this server has none for that owner: set WEBHOOK_SECRET."""

    code = "webhook_secret_missing"


class DatabaseUnavailable(IngleError):
    """The database cannot be reached."""

    code = "database_unavailable"
    retryable = True


class DatabaseBusy(IngleError):
    """The database is busy: something else has held it for too long."""

    code = "database_busy"
    retryable = True


class StorageFull(IngleError):
    """The database cannot write: its disk is full or read-only."""

    code = "storage_full"
    retryable = True


class SchemaMismatch(IngleError):
    """The database was made by a newer Ingle: run that version, or restore a backup."""

    code = "schema_mismatch"

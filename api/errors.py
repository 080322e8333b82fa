"""Which status each failure has. The table is total: a test walks every subclass of IngleError."""

import http
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domain import errors as domain
from domain.errors import IngleError, InvalidRequest


class TransportFailure(IngleError):
    """The request could not be read as HTTP and JSON."""

    code = "invalid_request"


class MissingBody(TransportFailure):
    """The request needs a JSON body and has none."""

    code = "missing_body"


class InvalidJson(TransportFailure):
    """The body is not valid JSON."""

    code = "invalid_json"


class InvalidValue(TransportFailure):
    """The body is JSON, but holds a value that cannot be kept: a NUL, half a surrogate pair, too large a number."""

    code = "invalid_value"


class InvalidBody(TransportFailure):
    """The body is not valid multipart/form-data."""

    code = "invalid_body"


class PayloadTooLarge(TransportFailure):
    """The body is larger than this server accepts."""

    code = "payload_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is larger than {limit} bytes", max_bytes=limit)


class HeadersTooLarge(TransportFailure):
    """The request line or the headers are larger than this server accepts."""

    code = "headers_too_large"


class TooManyConnections(TransportFailure):
    """This address has too many connections open."""

    code = "rate_limit_exceeded"
    retryable = True


class RequestTimeout(TransportFailure):
    """The request came in too slowly."""

    code = "request_timeout"


class UnsupportedMediaType(TransportFailure):
    """The body has a media type or an encoding that is not accepted here."""

    code = "unsupported_media_type"


class RouteNotFound(TransportFailure):
    """There is no such route."""

    code = "not_found"


class RequestNotFound(TransportFailure):
    """No request of that id waits for a model or has one."""

    code = "request_not_found"


class MethodNotAllowed(TransportFailure):
    """This route does not know that method."""

    code = "method_not_allowed"

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__(f"this route knows only {', '.join(allowed)}")
        self.allowed = tuple(allowed)


class HostNotAllowed(TransportFailure):
    """The Host header names a host that this server does not answer for: add it to INGLE_ALLOWED_HOSTS."""

    code = "host_not_allowed"


class OriginNotAllowed(TransportFailure):
    """The request comes from a web page of another site: add its origin to INGLE_ORIGINS."""

    code = "origin_not_allowed"


class InvalidApiKey(TransportFailure):
    """This needs an API key that the server knows, as `Authorization: Bearer KEY` or `X-API-Key: KEY`."""

    code = "invalid_api_key"


class InsufficientScope(TransportFailure):
    """The API key does not open this."""

    code = "insufficient_scope"

    def __init__(self, scopes: Sequence[str]) -> None:
        super().__init__(f"this needs an API key with the scope {' or '.join(scopes)}", scopes=list(scopes))


class OwnerForbidden(TransportFailure):
    """The API key is bound to other owners."""

    code = "owner_forbidden"


class ProfileForbidden(TransportFailure):
    """The API key is bound to other model profiles."""

    code = "profile_forbidden"


class UnsupportedValue(InvalidRequest):
    """A field of the request has a value that is not offered here."""

    code = "unsupported_value"


class ClientLeft(TransportFailure):
    """The client went away before the answer."""

    code = "request_cancelled"


@dataclass(frozen=True, slots=True)
class Problem:
    """One field that is wrong: where it stands and why."""

    loc: tuple[str | int, ...]
    msg: str


class InvalidFields(InvalidRequest):
    """Fields of the request have values that are not allowed. `message` None tells the first of the problems."""

    def __init__(self, problems: Sequence[Problem], message: str | None = None) -> None:
        first = problems[0]
        name = ".".join(str(part) for part in first.loc)
        super().__init__(message or (f"{name}: {first.msg}" if name else first.msg), field=name or None)
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Statuses:
    """The status of a failure in the native, the OpenAI and the Ollama dialect."""

    native: int
    openai: int
    ollama: int


def _same(status: int) -> Statuses:
    return Statuses(status, status, status)


_INVALID = Statuses(422, 400, 400)

STATUSES: Mapping[type[IngleError], Statuses] = {
    IngleError: _same(500),
    domain.InvalidRequest: _INVALID,
    domain.UnsupportedParameter: _INVALID,
    domain.UnsupportedCapability: _INVALID,
    domain.ContextLengthExceeded: _same(400),
    domain.ModelNotFound: _same(404),
    domain.ModelNotLoaded: _same(409),
    domain.ModelBusy: _same(409),
    domain.ModelPinned: _same(409),
    domain.ModelExists: _same(409),
    domain.ModelLoading: _same(503),
    domain.ModelLoadFailed: _same(500),
    domain.DeviceNotAvailable: _INVALID,
    domain.InsufficientMemory: _same(507),
    domain.InsufficientStorage: _same(507),
    domain.ModelsFolderUnusable: _same(500),
    domain.DownloadFailed: _same(502),
    domain.GenerationFailed: _same(500),
    domain.EngineUnavailable: _same(503),
    domain.RequestCancelled: _same(499),
    domain.Overloaded: _same(503),
    domain.ServerDraining: _same(503),
    domain.DeadlineExceeded: _same(504),
    domain.NotOffered: _same(501),
    domain.ProviderUnavailable: _same(503),
    domain.RateLimited: _same(429),
    domain.ProviderError: _same(502),
    domain.ProviderRefusesKey: _same(502),
    domain.BadResponse: _same(502),
    domain.UrlNotAllowed: _same(400),
    domain.DownloadTooLarge: _same(413),
    domain.AudioRefused: Statuses(415, 400, 400),
    domain.EmptyAudio: _INVALID,
    domain.NoAudioTrack: _INVALID,
    domain.AudioTooLong: _same(413),
    domain.DecodeTimeout: _INVALID,
    domain.StoredFileNotFound: _same(404),
    domain.StoredFileMissing: _same(500),
    domain.JobNotFound: _same(404),
    domain.LeaseLost: _same(409),
    domain.LeaseRequired: _same(409),
    domain.InvalidTransition: _same(409),
    domain.JobCompleted: _same(409),
    domain.AlreadyCompleted: _same(409),
    domain.DedupeConflict: _same(409),
    domain.IdempotencyMismatch: _INVALID,
    domain.PriorityAboveCap: _INVALID,
    domain.QuotaExceeded: _same(429),
    domain.CallbackRefused: _INVALID,
    domain.WebhookSecretMissing: _INVALID,
    domain.DatabaseUnavailable: _same(503),
    domain.DatabaseBusy: _same(503),
    domain.StorageFull: _same(503),
    domain.SchemaMismatch: _same(500),
    TransportFailure: _same(400),
    MissingBody: _same(400),
    InvalidJson: _same(400),
    InvalidValue: _INVALID,
    InvalidBody: _same(400),
    PayloadTooLarge: _same(413),
    HeadersTooLarge: _same(431),
    TooManyConnections: _same(429),
    RequestTimeout: _same(408),
    UnsupportedMediaType: _same(415),
    RouteNotFound: _same(404),
    RequestNotFound: _same(404),
    MethodNotAllowed: _same(405),
    HostNotAllowed: _same(403),
    InvalidApiKey: _same(401),
    InsufficientScope: _same(403),
    OwnerForbidden: _same(403),
    ProfileForbidden: _same(403),
    OriginNotAllowed: _same(403),
    ClientLeft: _same(499),
    InvalidFields: _INVALID,
    UnsupportedValue: _INVALID,
}


def statuses_of(error: IngleError) -> Statuses:
    """The row of the nearest class in the table."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def title_of(status: int) -> str:
    """The phrase of a status."""
    return "Client Closed Request" if status == 499 else http.HTTPStatus(status).phrase


def problems_of(error: IngleError) -> list[dict[str, Any]]:
    """The fields that are wrong, for a body's `errors`."""
    if isinstance(error, InvalidFields):
        which = {name: value for name, value in error.details.items() if name == "index"}
        return [{**which, "loc": ["body", *problem.loc], "msg": problem.msg} for problem in error.problems]
    if isinstance(error, InvalidRequest) and error.field is not None:
        return [{"loc": ["body", *error.field.split(".")], "msg": str(error)}]
    return []


def headers_of(error: IngleError, status: int) -> dict[str, str]:
    """What a failure says beside its body: when to come back, and whether that would help."""
    headers: dict[str, str] = {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status in (429, 503):
        # The jitter keeps refused clients from coming back all at once.
        after = max(1, math.ceil(_seconds_until(error))) + random.randrange(3)  # noqa: S311
        headers |= {"retry-after": str(after), "retry-after-ms": str(1000 * after)}
    if status >= 499 or status in (408, 409, 429):
        headers["x-should-retry"] = "true" if status in (429, 503) else "false"
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = ", ".join(error.allowed)
    return headers


def _seconds_until(error: IngleError) -> float:
    """When to come back: of load nobody knows more than half a minute ahead, the end of a quota's day is known."""
    if isinstance(error, domain.QuotaExceeded):
        return error.retry_after_seconds
    return min(30.0, error.retry_after_seconds) if isinstance(error, domain.Overloaded) else 1.0

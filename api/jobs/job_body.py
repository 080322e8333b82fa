"""A job as it is asked for over HTTP, and how it becomes a NewJob."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from starlette.requests import Request

from api.bodies import Body
from api.canonical import canonical_sha256
from api.errors import InvalidFields, Problem
from api.job_services import JobServices
from api.jobs.binding import owner_for
from api.jobs.reading import one_said
from api.request_ids import request_id_of
from application.job_queue import cost_of, new_job_id
from domain.new_job import CODE, NewJob, OnConflict
from domain.retry import RetryRules

_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def _moment(text: str) -> str:
    if milliseconds_of(text) is None:
        raise ValueError("must be a time in RFC 3339 with its offset, such as 2026-11-21T10:00:00Z")
    return text


def milliseconds_of(text: str) -> int | None:
    """Milliseconds since the epoch of a time in RFC 3339; None for anything else."""
    try:
        at = datetime.fromisoformat(text)
        return None if at.tzinfo is None else round(at.timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        return None


def _code(text: str) -> str:
    if not CODE.fullmatch(text):
        raise ValueError("must be a lower-case name of at most 64 characters")
    return text


def _within(least: float, most: float) -> dict[str, Any]:
    """A range for readers of the description; the domain is who refuses what is not in it."""
    return {"minimum": least, "maximum": most}


Moment = Annotated[str, AfterValidator(_moment)]
Code = Annotated[str, AfterValidator(_code)]


class RetryBody(Body):
    """How a job is retried where that differs from the table."""

    base_seconds: int | None = Field(None, json_schema_extra=_within(1, 3600))
    cap_seconds: int | None = Field(None, json_schema_extra=_within(1, 86_400))
    retry_codes: list[Code] = Field(default_factory=list)
    terminal_codes: list[Code] = Field(default_factory=list)

    def rules(self) -> RetryRules:
        """The same for the domain. Raises InvalidRequest."""
        return RetryRules(self.base_seconds, self.cap_seconds, tuple(self.retry_codes), tuple(self.terminal_codes))


class JobBody(Body):
    """What is asked for. The ranges are the domain's."""

    owner_service: str | None = None
    owner_ref: str = ""
    task_type: str
    model_profile: str | None = None
    input: dict[str, Any]
    priority: int = Field(0, json_schema_extra=_within(-10, 10))
    available_at: Moment | None = None
    delay_seconds: float = Field(0, json_schema_extra=_within(0, 2_592_000))
    expires_in_seconds: int | None = Field(None, json_schema_extra=_within(1, 2_592_000))
    max_attempts: int = Field(3, json_schema_extra=_within(1, 100))
    timeout_seconds: int | None = Field(None, json_schema_extra=_within(1, 86_400))
    retry: RetryBody | None = None
    idempotency_key: str | None = None
    dedupe_key: str | None = None
    on_conflict: Literal["error", "return", "skip"] = "error"
    callback_url: str | None = None
    include_result: bool = False
    metadata: dict[str, str] = Field(default_factory=dict)
    cost: float | None = Field(None, json_schema_extra=_within(0.01, 1000))


def new_job(
    services: JobServices,
    request: Request,
    raw: Mapping[str, Any],
    body: JobBody,
    now: float,
    *,
    in_batch: bool = False,
) -> NewJob:
    """The job that `body`, read from `raw`, asks for at `now`. Raises InvalidRequest naming a field."""
    key = body.idempotency_key
    if not in_batch:
        key = one_said(key, request.headers.get("idempotency-key"), ("idempotency_key", "Idempotency-Key"))
        if body.on_conflict == "skip":
            raise InvalidFields([Problem(("on_conflict",), "skip is for batches: use error or return")])
    profile = body.model_profile
    if profile is None:
        profile = services.defaults.profiles.get(body.task_type)
    if profile is None:
        raise InvalidFields([Problem(("model_profile",), "this task_type has no default: name one")])
    if body.available_at is not None and "delay_seconds" in raw:
        raise InvalidFields([Problem(("available_at",), "give available_at or delay_seconds, not both")])
    trace = _TRACE.fullmatch(request.headers.get("traceparent", ""))
    return NewJob(
        id=new_job_id(now),
        owner_service=owner_for(request, body.owner_service),
        owner_ref=body.owner_ref,
        task_type=body.task_type,
        model_profile=profile,
        input=body.input,
        priority=body.priority,
        available_at=None if body.available_at is None else milliseconds_of(body.available_at),
        delay_ms=round(1000 * body.delay_seconds),
        expires_ms=None if body.expires_in_seconds is None else 1000 * body.expires_in_seconds,
        max_attempts=body.max_attempts,
        timeout_ms=None if body.timeout_seconds is None else 1000 * body.timeout_seconds,
        default_timeout_ms=services.defaults.timeout_of(body.task_type),
        retry=body.retry.rules() if body.retry else None,
        idempotency_key=key,
        request_sha256=None if key is None else _hash(raw),
        dedupe_key=body.dedupe_key,
        on_conflict=OnConflict(body.on_conflict),
        callback_url=body.callback_url,
        include_result=body.include_result,
        metadata=body.metadata,
        cost=cost_of(body.task_type, body.input) if body.cost is None else body.cost,
        estimated=body.cost is None,
        trace_id=trace[1] if trace else None,
        request_id=request_id_of(request.scope),
    )


def _hash(raw: Mapping[str, Any]) -> str:
    return canonical_sha256({name: value for name, value in raw.items() if name != "idempotency_key"})

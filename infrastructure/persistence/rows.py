"""Rows to jobs and back."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import orjson
from sqlalchemy import column

from domain.errors import InvalidRequest
from domain.job import Job, JobStatus
from domain.json_text import LARGE, has_long_number, in_pieces
from domain.retry import RetryRules
from infrastructure.persistence.tables import jobs

COLUMNS = tuple(field.name for field in fields(Job))
JOB_COLUMNS = ", ".join(f"jobs.{name}" for name in COLUMNS)

# Told to SQLAlchemy, so that it does not look the columns of each answer up anew.
JOB_TYPES = tuple(column(name, jobs.c[name].type) for name in COLUMNS)

_PAYLOADS = ("input", "metadata", "result", "usage", "progress", "callback_headers")
_PAYLOADS_AT = tuple(COLUMNS.index(name) for name in _PAYLOADS)
_READ_LATER_AT = (COLUMNS.index("input"), COLUMNS.index("result"))
_FLOATS_AT = (COLUMNS.index("fair_tag"), COLUMNS.index("cost"))
_STATUS, _READY = COLUMNS.index("status"), COLUMNS.index("ready")
_RETRY, _INCLUDE = COLUMNS.index("retry"), COLUMNS.index("include_result")
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_STATUSES = {str(status): status for status in JobStatus}


class Unread(str):
    """The text of a large payload, which is read off the event loop, and only for who asks for the job."""

    __slots__ = ()


def job_of(row: Sequence[Any]) -> Job:
    """The job in a row that begins with COLUMNS, in order; a large input or result is left Unread."""
    values = list(row[: len(COLUMNS)])
    for at in _PAYLOADS_AT:
        if values[at] is not None:
            later = at in _READ_LATER_AT and len(values[at]) > LARGE
            values[at] = Unread(values[at]) if later else json.loads(values[at])
    values[_STATUS] = _STATUSES[values[_STATUS]]
    values[_READY] = bool(values[_READY])
    values[_INCLUDE] = bool(values[_INCLUDE])
    # SQLite keeps a whole REAL as an integer, and RETURNING shows it so.
    for at in _FLOATS_AT:
        values[at] = float(values[at])
    values[_RETRY] = rules_of(values[_RETRY])
    return Job(*values)


async def read_out(job: Job) -> Job:
    """`job` with nothing left Unread."""
    unread = {name: text for name in ("input", "result") if isinstance(text := getattr(job, name), Unread)}
    return await asyncio.to_thread(_read_out, job, unread) if unread else job


def _read_out(job: Job, unread: Mapping[str, Unread]) -> Job:
    return replace(job, **{name: _large_value(text) for name, text in unread.items()})


def _large_value(text: Unread) -> Any:
    """The value of a text that `as_json` wrote. The quick reader keeps other threads waiting half as long."""
    raw = text.encode()
    return json.loads(raw) if has_long_number(raw) else orjson.loads(raw)


def row_of(job: Job) -> dict[str, Any]:
    """The columns of a new row; the database numbers it."""
    row = {name: getattr(job, name) for name in COLUMNS}
    del row["seq"]
    for name in _PAYLOADS:
        row[name] = as_json(row[name])
    row["status"] = str(job.status)
    row["ready"] = int(job.ready)
    row["include_result"] = int(job.include_result)
    row["retry"] = as_text(job.retry)
    row["input_bytes"] = len(row["input"].encode())
    return row


def as_json(value: Any) -> str | None:
    """`value` as compact JSON; None stays None. Raises InvalidRequest for NaN, infinities and lone surrogates."""
    if value is None:
        return None
    try:
        written = "".join(in_pieces(value, _ENCODE))
        written.encode()
    except ValueError:
        raise InvalidRequest("holds something that JSON cannot say: NaN, an infinity or a lone surrogate") from None
    return written


def rules_of(value: str | None) -> RetryRules | None:
    """Retry rules from their text."""
    if value is None:
        return None
    said: Mapping[str, Any] = json.loads(value)
    return RetryRules(
        said.get("base_seconds"),
        said.get("cap_seconds"),
        tuple(said.get("retry_codes", ())),
        tuple(said.get("terminal_codes", ())),
    )


def as_text(rules: RetryRules | None) -> str | None:
    """Retry rules as their text."""
    return None if rules is None else as_json(asdict(rules))


def in_chunks(values: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """`values` in pieces of at most `size`."""
    return [values[at : at + size] for at in range(0, len(values), size)]

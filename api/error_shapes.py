"""How a failure looks on the wire: one shape per dialect, chosen by the path alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import orjson

from api.errors import headers_of, problems_of, statuses_of, title_of
from domain import errors as domain
from domain.errors import IngleError

MAX_DETAIL = 1000
GIB = 1 << 30
_RESERVED = frozenset(("type", "title", "status", "detail", "code", "request_id", "errors", "error"))
# An absolute path of at least two parts, in quotes or without spaces, that does not belong to a URL.
_DIRECTORY = re.compile(
    r"""(?<=['"])/[^'"]*/(?=[^'"/]+['"])"""
    r"""|(?<![\w:/.])/(?:[^\s/'":,;()<>|]+/)+(?=[^\s/'":,;()<>|])"""
)


class Dialect(Enum):
    """Whose clients a path is for."""

    NATIVE = auto()
    OPENAI = auto()
    OLLAMA = auto()
    ANTHROPIC = auto()


# The longest prefix wins.
_PREFIXES = sorted(
    {
        "/v1/": Dialect.OPENAI,
        "/v1/systemone": Dialect.OLLAMA,
        "/v1/messages": Dialect.ANTHROPIC,
        "/api/": Dialect.OLLAMA,
        "/api/v1/": Dialect.NATIVE,
        "/api/task/": Dialect.NATIVE,
        "/api/file/": Dialect.NATIVE,
        "/api/files/": Dialect.NATIVE,
    }.items(),
    key=lambda entry: len(entry[0]),
    reverse=True,
)

_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    501: "not_supported_error",
}


@dataclass(frozen=True, slots=True)
class Rendered:
    """A failure as an HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def dialect_of(path: str) -> Dialect:
    """The dialect of a path; a path that is nobody's is native."""
    return next((dialect for prefix, dialect in _PREFIXES if path.startswith(prefix)), Dialect.NATIVE)


def public(error: Exception) -> IngleError:
    """What the client may know of `error`: everything of our own failures, nothing of a bug."""
    return error if isinstance(error, IngleError) else IngleError("an internal error occurred")


def detail_of(error: IngleError) -> str:
    """The message, of bounded length, without the directories that may stand in the texts of libraries."""
    text = str(error)[:MAX_DETAIL]
    # The name of an unknown model is the caller's own text, even where it looks like a path.
    return text if isinstance(error, domain.ModelNotFound) else _DIRECTORY.sub("", text)


def problem(error: IngleError, request_id: str) -> dict[str, Any]:
    """RFC 9457, with the failure's code and figures as further members."""
    status = statuses_of(error).native
    figures = {name: value for name, value in error.details.items() if name not in _RESERVED and _is_plain(value)}
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": title_of(status),
        "status": status,
        "detail": detail_of(error),
        "code": error.code,
        "request_id": request_id,
        **figures,
    }
    if status == 422:
        document["errors"] = problems_of(error)
    return document


def render(error: Exception, path: str, request_id: str) -> Rendered:
    """The whole response for a failure of a request to `path`."""
    failure = public(error)
    dialect = dialect_of(path)
    statuses = statuses_of(failure)
    match dialect:
        case Dialect.NATIVE:
            status, body, media_type = statuses.native, problem(failure, request_id), "application/problem+json"
        case Dialect.OPENAI:
            status, body, media_type = statuses.openai, openai_error(failure), "application/json"
        case Dialect.ANTHROPIC:
            status, body, media_type = statuses.openai, _anthropic(failure, statuses.openai), "application/json"
        case Dialect.OLLAMA:
            status, body, media_type = statuses.ollama, ollama_error(failure, path), "application/json"
    return Rendered(status, {"content-type": media_type, **headers_of(failure, status)}, orjson.dumps(body))


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(_is_plain(item) for item in value.values())
    return value is None or isinstance(value, str | int | float | bool)


def _openai_type(status: int) -> str:
    return _OPENAI_TYPES.get(status, "server_error" if status >= 499 else "invalid_request_error")


def openai_error(error: IngleError) -> dict[str, Any]:
    """The body of the OpenAI dialect; all four keys are there, also where they are null."""
    status = statuses_of(error).openai
    code = "invalid_value" if error.code == domain.InvalidRequest.code else error.code
    field = error.field if isinstance(error, domain.InvalidRequest) else None
    return {"error": {"message": detail_of(error), "type": _openai_type(status), "param": field, "code": code}}


def _anthropic(error: IngleError, status: int) -> dict[str, Any]:
    return {"type": "error", "error": {"type": _openai_type(status), "message": detail_of(error)}}


# What other routes say in place of `model 'x' not found`.
_OLLAMA_NOT_FOUND = {
    "/api/embeddings": 'model "{}" not found, try pulling it first',
    "/api/copy": 'model "{}" not found',
    "/api/pull": "pull model manifest: file does not exist",
}


def ollama_error(error: IngleError, path: str) -> dict[str, Any]:
    """The body of the Ollama dialect."""
    return {"error": _ollama_text(error, path)}


def _ollama_text(error: IngleError, path: str) -> str:
    """Clients of Ollama compare these texts, so they stand here to the letter."""
    match error:
        case domain.ModelNotFound():
            return _OLLAMA_NOT_FOUND.get(path, "model '{}' not found").replace("{}", error.name[:MAX_DETAIL])
        case domain.ModelBusy():
            return f"model '{error.name}' is in use"
        case domain.ContextLengthExceeded():
            return "the input length exceeds the context length"
        case domain.Overloaded():
            return "server busy, please try again.  maximum pending requests exceeded"
        case domain.RequestCancelled():
            return "request canceled"
        case domain.NotOffered():
            return "not implemented"
        case domain.InsufficientMemory(details={"needed_bytes": int(needed), "available_bytes": int(available)}):
            return (
                f"model requires more system memory ({needed / GIB:.1f} GiB) "
                f"than is available ({available / GIB:.1f} GiB)"
            )
        case _ if error.code == "invalid_api_key":
            return "unauthorized"
        case _ if error.code == "missing_body":
            return "missing request body"
        case _ if error.code == "not_found":
            return "not found"
        case _:
            return detail_of(error)

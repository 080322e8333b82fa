"""Answers as Ollama's records: pieces of text, and at the end why and how long."""

from collections.abc import Callable, Sequence
from typing import Any

from api.services import Services
from api.times import nanoseconds, rfc3339_nanoseconds
from api.turns import call_record
from domain.generation import Finish, TextChunk, TokenLogprob
from domain.tools import ToolCall

Json = dict[str, Any]
Shape = Callable[[str, str, Sequence[Json]], Json]


def as_response(text: str, thinking: str = "", calls: Sequence[Json] = ()) -> Json:
    """How `generate` tells what was written."""
    return {"response": text, **_beside(thinking, calls)}


def as_message(text: str, thinking: str = "", calls: Sequence[Json] = ()) -> Json:
    """How `chat` tells it."""
    return {"message": {"role": "assistant", "content": text, **_beside(thinking, calls)}}


def _beside(thinking: str, calls: Sequence[Json]) -> Json:
    return {**({"thinking": thinking} if thinking else {}), **({"tool_calls": list(calls)} if calls else {})}


def head(services: Services, name: str) -> Json:
    """What every record begins with; `name` is what was asked for."""
    return {"model": name, "created_at": rfc3339_nanoseconds(services.clock.now())}


class TextRecords:
    """The records of one answer, in order."""

    def __init__(self, services: Services, name: str, shape: Shape, *, with_context: bool) -> None:
        self._services = services
        self._name = name
        self._shape = shape
        self._with_context = with_context
        self._calls = 0

    def pieces(self, chunk: TextChunk) -> list[Json]:
        """Records for what a chunk shows, which may be nothing. Calls of tools have one of their own."""
        records = []
        if chunk.text or chunk.thinking or chunk.logprobs:
            shown = self._shape(chunk.text, chunk.thinking, ())
            records.append({**self._head(), **shown, "done": False, **logprobs_of(chunk.logprobs)})
        if chunk.tool_calls:
            records.append({**self._head(), **self._shape("", "", self._numbered(chunk.tool_calls)), "done": False})
        return records

    def last(self, finish: Finish) -> Json:
        """The record that ends a stream: no text, and the figures."""
        return {**self._head(), **self._shape("", "", ()), "done": True, **self._figures(finish)}

    def whole(self, chunks: Sequence[TextChunk], finish: Finish) -> Json:
        """The one record of an answer in one piece."""
        text, thinking = ("".join(parts) for parts in zip(*((one.text, one.thinking) for one in chunks), strict=True))
        calls = self._numbered([call for one in chunks for call in one.tool_calls])
        logprobs = logprobs_of([token for one in chunks for token in one.logprobs])
        shown = self._shape(text, thinking, calls)
        return {**self._head(), **shown, "done": True, **self._figures(finish), **logprobs}

    def _head(self) -> Json:
        return head(self._services, self._name)

    def _numbered(self, calls: Sequence[ToolCall]) -> list[Json]:
        first = self._calls
        self._calls += len(calls)
        return [call_record(first + place, call) for place, call in enumerate(calls)]

    def _figures(self, finish: Finish) -> Json:
        usage, timings = finish.usage, finish.timings
        return {
            "done_reason": finish.reason.value,
            **({"context": list(finish.context)} if self._with_context else {}),
            "total_duration": nanoseconds(timings.total),
            "load_duration": nanoseconds(timings.load),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_cached_count": usage.cached_tokens,
            "prompt_eval_duration": nanoseconds(timings.prompt),
            "eval_count": usage.completion_tokens,
            "eval_duration": nanoseconds(timings.decode),
        }


def logprobs_of(tokens: Sequence[TokenLogprob]) -> Json:
    """The field `logprobs`, if there are any."""
    if not tokens:
        return {}
    return {"logprobs": [{**_token(token), "top_logprobs": [_token(other) for other in token.top]} for token in tokens]}


def _token(token: TokenLogprob) -> Json:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.raw)}

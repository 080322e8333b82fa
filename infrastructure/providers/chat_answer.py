"""The deltas of an OpenAI-compatible stream, as chunks of answers."""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from domain.errors import BadResponse, InvalidRequest, ProviderError
from domain.generation import Finish, FinishReason, TextChunk, Timings, TokenLogprob, Usage
from domain.tools import ToolCall

Json = Mapping[str, Any]

MAX_CALLS = 128
UNKNOWN_TOKEN = -1
"""The id of a token in log probabilities: providers tell only its text."""

_REASONS = {
    "stop": FinishReason.STOP,
    "tool_calls": FinishReason.STOP,
    "function_call": FinishReason.STOP,
    "length": FinishReason.LENGTH,
}


@dataclass(slots=True)
class _Call:
    """A call as far as it is told."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class _Choice:
    """One of the answers; `deltas` counts the pieces of it that held something."""

    calls: dict[int, _Call] = field(default_factory=dict)
    deltas: int = 0
    reason: FinishReason | None = None


class Answers:
    """All answers to one request. Raises BadResponse for what cannot be read.

    The ends of the answers are held back until `end`, because usage comes last. The provider tells the tokens of all
    answers together: each gets an equal share. Where it tells none, a delta counts as one token, and the prompt as
    none.
    """

    def __init__(self, n: int) -> None:
        self._choices = [_Choice() for _ in range(n)]
        self._usage: Usage | None = None

    @property
    def have_begun(self) -> bool:
        """Whether anything of an answer has come."""
        return any(choice.deltas or choice.reason for choice in self._choices)

    def read(self, event: Json) -> Iterator[TextChunk]:
        """The pieces that stand in one event of the stream."""
        if isinstance(usage := event.get("usage"), Mapping):
            self._usage = _usage(usage)
        choices = event.get("choices")
        if not isinstance(choices, list):
            raise BadResponse("the provider's answer has no choices")
        for said in choices:
            if not isinstance(said, Mapping):
                raise BadResponse("a choice of the provider's answer is no object")
            chunk = self._read_choice(said)
            if chunk is not None:
                yield chunk

    def _read_choice(self, said: Json) -> TextChunk | None:
        index = said.get("index", 0)
        if not isinstance(index, int) or not 0 <= index < len(self._choices):
            raise BadResponse("the provider's answer has more choices than were asked for")
        choice = self._choices[index]
        delta = said.get("delta")
        delta = delta if isinstance(delta, Mapping) else {}
        text = _text(delta, "content") or _text(delta, "refusal") or _text(said, "text")
        thinking = _text(delta, "reasoning_content") or _text(delta, "reasoning")
        called = self._read_calls(choice, delta.get("tool_calls"))
        logprobs = _logprobs(said.get("logprobs"))
        if (reason := said.get("finish_reason")) is not None:
            choice.reason = _reason(reason)
        if text or thinking or called:
            choice.deltas += 1
        return TextChunk(text, None, index, logprobs, thinking) if text or thinking or logprobs else None

    def _read_calls(self, choice: _Choice, pieces: object) -> bool:
        if not isinstance(pieces, list):
            return False
        for piece in pieces:
            if not isinstance(piece, Mapping):
                raise BadResponse("a tool call of the provider's answer is no object")
            number = piece.get("index", 0)
            if not isinstance(number, int) or not 0 <= number < MAX_CALLS:
                raise BadResponse("the provider's answer has too many tool calls")
            call = choice.calls.setdefault(number, _Call())
            function = piece.get("function")
            function = function if isinstance(function, Mapping) else {}
            call.id = call.id or _text(piece, "id")
            call.name = call.name or _text(function, "name")
            call.arguments += _text(function, "arguments")
        return bool(pieces)

    def end(self, timings: Timings) -> Iterator[TextChunk]:
        """The last chunk of each answer. Raises BadResponse if one of them has no end."""
        if any(choice.reason is None for choice in self._choices):
            raise BadResponse("the provider's answer broke off")
        for index, choice in enumerate(self._choices):
            reason = choice.reason or FinishReason.LENGTH
            # A call that the limit of tokens cut is none.
            calls = () if reason is FinishReason.LENGTH else tuple(_whole(call) for call in _in_order(choice))
            yield TextChunk("", Finish(reason, self._share(index), timings), index, tool_calls=calls)

    def cut(self, timings: Timings) -> Iterator[TextChunk]:
        """The last chunk of each answer when the time is over."""
        for index, choice in enumerate(self._choices):
            reason = choice.reason or FinishReason.LENGTH
            yield TextChunk("", Finish(reason, self._share(index), timings), index)

    def _share(self, index: int) -> Usage:
        if self._usage is None:
            return Usage(0, self._choices[index].deltas)
        n, told = len(self._choices), self._usage
        return Usage(
            told.prompt_tokens,
            _part(told.completion_tokens, index, n),
            told.cached_tokens,
            _part(told.reasoning_tokens, index, n),
        )


def _part(total: int, index: int, n: int) -> int:
    """Part number `index` of n equal ones that make `total`."""
    return total * (index + 1) // n - total * index // n


def _in_order(choice: _Choice) -> Iterator[_Call]:
    return (call for _, call in sorted(choice.calls.items()))


def _whole(call: _Call) -> ToolCall:
    if not call.name:
        raise BadResponse("a tool call of the provider's answer has no name")
    try:
        return ToolCall(call.id or f"call_{uuid.uuid4().hex[:8]}", call.name, call.arguments.strip() or "{}")
    except InvalidRequest:
        raise BadResponse("a tool call of the provider's answer has arguments that are no JSON object") from None


def _reason(said: object) -> FinishReason:
    if said == "content_filter":
        raise ProviderError("the provider withholds the answer: its content filter")
    # Other servers have words of their own for an end that no limit caused.
    return _REASONS.get(str(said), FinishReason.STOP)


def _text(where: Json, name: str) -> str:
    value = where.get(name)
    if value is None or isinstance(value, str):
        return value or ""
    raise BadResponse(f"{name} in the provider's answer is no text")


def _count(where: object, name: str) -> int:
    value = where.get(name) if isinstance(where, Mapping) else None
    return value if isinstance(value, int) and value > 0 else 0


def _usage(said: Json) -> Usage:
    return Usage(
        _count(said, "prompt_tokens"),
        _count(said, "completion_tokens"),
        _count(said.get("prompt_tokens_details"), "cached_tokens"),
        _count(said.get("completion_tokens_details"), "reasoning_tokens"),
    )


# -- log probabilities ---------------------------------------------------------------------------------


def _logprobs(said: object) -> tuple[TokenLogprob, ...]:
    """In the form of chats (`content`) or in that of completions (`tokens`, `token_logprobs`, `top_logprobs`)."""
    if not isinstance(said, Mapping):
        return ()
    try:
        if isinstance(said.get("content"), list):
            return tuple(_token(token, token.get("top_logprobs") or ()) for token in said["content"])
        tops = said.get("top_logprobs") or [{}] * len(said.get("tokens") or ())
        return tuple(
            TokenLogprob(UNKNOWN_TOKEN, text, text.encode(), float(logprob), _ranked(top or {}))
            for text, logprob, top in zip(said.get("tokens") or (), said["token_logprobs"], tops, strict=True)
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise BadResponse("the log probabilities in the provider's answer cannot be read") from None


def _token(said: Json, top: Any = ()) -> TokenLogprob:
    text = said["token"]
    raw = said.get("bytes")
    return TokenLogprob(
        UNKNOWN_TOKEN,
        text,
        text.encode() if raw is None else bytes(raw),
        float(said["logprob"]),
        tuple(_token(other) for other in top),
    )


def _ranked(top: Json) -> tuple[TokenLogprob, ...]:
    ranked = sorted(top.items(), key=lambda pair: -pair[1])
    return tuple(TokenLogprob(UNKNOWN_TOKEN, text, text.encode(), float(logprob)) for text, logprob in ranked)

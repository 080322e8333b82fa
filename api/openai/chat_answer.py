"""How the next message of a chat looks on the wire: whole, and delta by delta."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from api.openai.envelope import Envelope, Json, bounded, usage_of
from api.openai.tools import call_json, function_json
from domain.generation import Finish, FinishReason, TextChunk, TokenLogprob
from domain.tools import ToolCall

WHOLE = "chat.completion"
CHUNK = "chat.completion.chunk"


@dataclass
class Choice:
    """One of the answers to a request, as far as it is written.

    `old_calls` writes a call of a tool in its old form, `with_logprobs` tells probabilities.
    """

    index: int
    old_calls: bool
    with_logprobs: bool
    text: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, chunk: TextChunk) -> None:
        """Take the next piece of it."""
        self.text.append(chunk.text)
        self.thinking.append(chunk.thinking)
        self.calls.extend(chunk.tool_calls)
        self.logprobs.extend(chunk.logprobs)
        self.finish = chunk.finish

    @property
    def finish_reason(self) -> str | None:
        """Why it ended; calls that were cut are no reason."""
        if self.finish is None:
            return None
        if self.calls and self.finish.reason is FinishReason.STOP:
            return "function_call" if self.old_calls else "tool_calls"
        return self.finish.reason.value

    def whole(self) -> Json:
        """All of it, in one piece."""
        return {
            "index": self.index,
            "message": self._message(),
            "logprobs": logprobs_of(self.logprobs) if self.with_logprobs else None,
            "finish_reason": self.finish_reason,
        }

    def _message(self) -> Json:
        content, thinking = "".join(self.text), "".join(self.thinking)
        message: Json = {
            "role": "assistant",
            "content": None if self.calls and not content else content,
            "refusal": None,
            "annotations": [],
        }
        if thinking:
            message |= _reasoning(thinking)
        if self.calls and self.old_calls:
            message["function_call"] = function_json(self.calls[0])
        elif self.calls:
            message["tool_calls"] = [call_json(call) for call in self.calls]
        return message

    def pieces(self, chunk: TextChunk) -> Iterator[Json]:
        """The choices of a stream's chunks that tell `chunk`, which is the next piece of this answer."""
        is_first, told = not self.text, len(self.calls)
        self.add(chunk)
        if is_first:
            yield self._piece({"role": "assistant", "content": ""})
        deltas = list(self._deltas(chunk, told))
        if chunk.logprobs and not deltas:
            deltas.append({"content": ""})
        for number, delta in enumerate(deltas):
            yield self._piece(delta, chunk.logprobs if number == 0 else ())
        if chunk.finish is not None:
            yield {**self._piece({}), "finish_reason": self.finish_reason}

    def _deltas(self, chunk: TextChunk, told: int) -> Iterator[Json]:
        if chunk.thinking:
            yield _reasoning(chunk.thinking)
        if chunk.text:
            yield {"content": chunk.text}
        for index, call in enumerate(chunk.tool_calls, start=told):
            opened = {**function_json(call), "arguments": ""}
            if self.old_calls:
                yield {"function_call": opened}
                yield {"function_call": {"arguments": call.arguments}}
            else:
                yield {"tool_calls": [{"index": index, **call_json(call), "function": opened}]}
                yield {"tool_calls": [{"index": index, "function": {"arguments": call.arguments}}]}

    def _piece(self, delta: Json, logprobs: Sequence[TokenLogprob] = ()) -> Json:
        told = logprobs_of(logprobs) if logprobs and self.with_logprobs else None
        return {"index": self.index, "delta": delta, "logprobs": told, "finish_reason": None}


def whole(envelope: Envelope, choices: Sequence[Choice]) -> Json:
    """The answer in one piece; every choice must be finished."""
    return {
        **envelope.of(WHOLE),
        "service_tier": "default",
        "choices": [choice.whole() for choice in choices],
        "usage": usage_of([[choice.finish.usage for choice in choices if choice.finish is not None]]),
    }


def _reasoning(thinking: str) -> Json:
    """Clients disagree about its name."""
    return {"reasoning_content": thinking, "reasoning": thinking}


def logprobs_of(tokens: Sequence[TokenLogprob]) -> Json:
    """The probabilities of the tokens of a piece."""
    content = [{**_token(token), "top_logprobs": [_token(other) for other in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": bounded(token.logprob), "bytes": list(token.raw)}

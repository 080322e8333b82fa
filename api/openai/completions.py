"""How an answer looks on the wire: whole, and chunk by chunk."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from domain.generation import Finish, TextChunk, TokenLogprob, Usage
from domain.model import Model

Json = dict[str, Any]

_LEAST_LOGPROB = -9999.0
"""JSON has no infinity."""


def new_id() -> str:
    """The id of a chat completion."""
    return f"chatcmpl-{secrets.token_hex(16)}"


def fingerprint(version: str, model: Model) -> str:
    """What changes whenever the same seed may give another text: build, weights, precision or device."""
    parts = (version, model.id, model.spec.digest, model.dtype, model.quantization, model.device)
    return f"fp_ingle_{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


@dataclass
class Choice:
    """One of the answers to a request, as far as it is written."""

    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, chunk: TextChunk) -> None:
        """Take the next piece of it."""
        self.pieces.append(chunk.text)
        self.logprobs.extend(chunk.logprobs)
        self.finish = chunk.finish


@dataclass(frozen=True)
class Envelope:
    """What every chunk of a stream, and the whole answer, say alike. `created` is in seconds since the epoch."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    def whole(self, choices: Sequence[Choice], *, with_logprobs: bool) -> Json:
        """The answer in one piece; every choice must be finished."""
        return {
            **self._header("chat.completion"),
            "service_tier": "default",
            "choices": [_whole_choice(index, choice, with_logprobs) for index, choice in enumerate(choices)],
            "usage": usage_of([choice.finish.usage for choice in choices if choice.finish is not None]),
        }

    def chunk(
        self, index: int, delta: Json, usage: Json, *, logprobs: Json | None = None, finish_reason: str | None = None
    ) -> Json:
        """A piece of choice number `index`; `usage` is `{"usage": null}` or empty."""
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return {**self._header("chat.completion.chunk"), "choices": [choice], **usage}

    def usage_chunk(self, usages: Sequence[Usage]) -> Json:
        """The chunk that ends a stream whose client wants to know the usage."""
        return {**self._header("chat.completion.chunk"), "choices": [], "usage": usage_of(usages)}

    def _header(self, kind: str) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
        }


def _whole_choice(index: int, choice: Choice, with_logprobs: bool) -> Json:
    content = "".join(choice.pieces)
    return {
        "index": index,
        "message": {"role": "assistant", "content": content, "refusal": None, "annotations": []},
        "logprobs": logprobs_of(choice.logprobs) if with_logprobs else None,
        "finish_reason": choice.finish.reason.value if choice.finish is not None else None,
    }


def logprobs_of(tokens: Sequence[TokenLogprob]) -> Json:
    """The probabilities of the tokens of a piece."""
    content = [{**_token(token), "top_logprobs": [_token(other) for other in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def _token(token: TokenLogprob) -> Json:
    # Rounding in the engine may leave a probability a hair above 1.
    logprob = min(0.0, max(token.logprob, _LEAST_LOGPROB))
    return {"token": token.text, "logprob": logprob, "bytes": list(token.raw)}


def usage_of(usages: Sequence[Usage]) -> Mapping[str, Any]:
    """One reading of the prompt, and what was written for all choices together."""
    first = usages[0]
    written = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": first.prompt_tokens,
        "completion_tokens": written,
        "total_tokens": first.prompt_tokens + written,
        "prompt_tokens_details": {"cached_tokens": first.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }

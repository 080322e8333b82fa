"""What every answer of this dialect says of itself: its id, its model, what it was made with, and what it cost."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.services import Services
from domain.generation import Usage
from domain.model import Model

Json = dict[str, Any]

_LEAST_LOGPROB = -9999.0
"""JSON has no infinity."""


@dataclass(frozen=True)
class Envelope:
    """What every chunk of a stream, and the whole answer, say alike. `created` is in seconds since the epoch."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    def of(self, kind: str) -> Json:
        """The keys that come first in an object of that kind."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
        }


def envelope(prefix: str, services: Services, name: str, model: Model) -> Envelope:
    """A new one for an answer of `model`, which was asked for by `name`; ids begin with `prefix`."""
    return Envelope(
        f"{prefix}-{secrets.token_hex(16)}",
        int(services.clock.now()),
        name,
        fingerprint(services.version, model),
    )


def fingerprint(version: str, model: Model) -> str:
    """What changes whenever the same seed may give another text: build, weights, precision or device."""
    parts = (version, model.id, model.spec.digest, model.dtype, model.quantization, model.device)
    return f"fp_ingle_{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


def bounded(logprob: float) -> float:
    """A logarithm of a probability as JSON can have it; rounding in an engine may leave it a hair above 0."""
    return min(0.0, max(logprob, _LEAST_LOGPROB))


def usage_of(prompts: Sequence[Sequence[Usage]]) -> Mapping[str, Any]:
    """For each prompt the usage of its answers: each prompt is read once, and all answers are written."""
    read = [answers[0] for answers in prompts]
    written = [usage for answers in prompts for usage in answers]
    prompt_tokens = sum(usage.prompt_tokens for usage in read)
    completion_tokens = sum(usage.completion_tokens for usage in written)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in read), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": sum(usage.reasoning_tokens for usage in written),
            "audio_tokens": 0,
            "accepted_prediction_tokens": sum(usage.accepted_tokens for usage in written),
            "rejected_prediction_tokens": sum(usage.rejected_tokens for usage in written),
        },
    }

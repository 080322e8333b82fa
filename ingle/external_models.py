"""Models of other servers, as the settings and the `[[provider]]` tables of models.toml name them.

[[provider]]
name = "lab"
base_url = "https://llm.example/v1"
key_env = "LAB_KEY"
extensions = ["top_k", "min_p"]
models = [
    { name = "big", model = "qwen2.5-72b", context_length = 32768, capabilities = ["completion", "tools"] },
    { name = "vectors", model = "bge-m3", task = "embedding", dimensions = 1024 },
]
"""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from domain.keep_alive import parse_go_duration
from domain.model import MAX_CONTEXT_LENGTH, Task, is_valid_name
from infrastructure.addresses import is_metadata, parse
from infrastructure.providers.entry import EXTENSIONS, WHISPERX, Patience, ProvidedModel, ProviderEntry, SpeechShape
from ingle.model_store import operator_models
from ingle.settings import Settings
from ingle.settings_providers import ProviderSettings
from ingle.settings_sources import BadSettings

LLM = "llm"
DEFAULT_LLM_MODEL = "qwen2.5-14b"
CAPABILITIES = ("completion", "embedding", "insert", "thinking", "tools")

_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal"})
_PROVIDER_KEYS = frozenset(
    {"name", "base_url", "key_env", "key_file", "ca_file", "extensions", "max_tokens_field", "max_in_flight", "models"}
    | {"connect_timeout", "first_byte_timeout", "idle_timeout", "timeout"}
)
_MODEL_KEYS = frozenset({"name", "model", "task", "context_length", "capabilities", "dimensions"})
_TIMES = {
    "connect_timeout": "connect",
    "first_byte_timeout": "first_byte",
    "idle_timeout": "idle",
    "timeout": "total",
}


def external_models(settings: Settings) -> tuple[ProvidedModel, ...]:
    """Every model of another server that the settings and models.toml name. Raises BadSettings."""
    try:
        return provided_models(settings, operator_models(settings).providers)
    except ValueError as error:
        raise BadSettings([str(error)]) from None


def provided_models(
    settings: ProviderSettings, tables: Sequence[Mapping[str, Any]], environ: Mapping[str, str] | None = None
) -> tuple[ProvidedModel, ...]:
    """Every model of another server. Raises ValueError naming the table or the setting, and the key."""
    environ = os.environ if environ is None else environ
    models = [model for table in tables for model in _Table(table, environ).models()]
    if settings.llm_base_url is not None:
        models.append(_llm(settings, settings.llm_base_url))
    if settings.whisperx_url is not None:
        models.append(_whisperx(settings, settings.whisperx_url))
    names = [model.name.lower() for model in models]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two models of providers are named '{twice}'")
    providers = {(model.provider.name, model.provider) for model in models}
    if len(providers) > len({name for name, _ in providers}):
        raise ValueError("two providers have the same name")
    return tuple(models)


def llm_alias(models: Sequence[ProvidedModel]) -> Mapping[str, str]:
    """`llm`, which means whatever LLM_MODEL is."""
    llm = next((model.name for model in models if model.provider.name == LLM), None)
    return {} if llm is None else {LLM: llm}


def llm_model(settings: ProviderSettings) -> str | None:
    """What LLM_MODEL means: with an LLM_BASE_URL it has a default, without one it is a name like any other."""
    return settings.llm_model or (DEFAULT_LLM_MODEL if settings.llm_base_url else None)


def _llm(settings: ProviderSettings, base_url: str) -> ProvidedModel:
    name = settings.llm_model or DEFAULT_LLM_MODEL
    if not is_valid_name(name):
        raise ValueError("llm_model: must be a model's name; other names can be given in models.toml")
    key = _key(settings.llm_api_key, settings.llm_api_key_file, "llm_api_key")
    entry = ProviderEntry(
        LLM,
        checked_url(base_url, "llm_base_url"),
        key,
        frozenset(_known(settings.llm_extensions, EXTENSIONS, "llm_extensions")),
        patience=_within(settings.llm_timeout, Patience()),
    )
    capabilities = tuple(_known(settings.llm_capabilities, CAPABILITIES, "llm_capabilities"))
    return ProvidedModel(name, name, entry, Task.TEXT, settings.llm_context_length, capabilities)


def _whisperx(settings: ProviderSettings, address: str) -> ProvidedModel:
    base_url, shape = _speech_server(checked_url(address, "whisperx_url"))
    total = settings.whisperx_timeout
    entry = ProviderEntry(
        WHISPERX,
        base_url,
        _key(settings.whisperx_api_key, settings.whisperx_api_key_file, "whisperx_api_key"),
        kind=WHISPERX,
        speech_shape=shape,
        # The answer comes in one piece when all of the recording is heard.
        patience=_within(total, Patience(first_byte=total)),
    )
    return ProvidedModel(WHISPERX, settings.whisperx_model, entry, Task.SPEECH, capabilities=("transcription",))


def _speech_server(address: str) -> tuple[str, SpeechShape]:
    """The base of a server that writes down recordings, and its words, told by the end of its path."""
    for shape in SpeechShape:
        if address.endswith(shape.path):
            return address.removesuffix(shape.path), shape
    if not urlsplit(address).path:
        return address, SpeechShape.ASR
    raise ValueError("whisperx_url: must end in /v1/audio/transcriptions or /asr, or have no path")


def _key(key: SecretStr | None, file: Path | None, where: str) -> str | None:
    """The key that is given, or that stands in the file."""
    if file is not None:
        return _key_in(file, f"{where}_file")
    return None if key is None else _usable(key.get_secret_value(), where)


def checked_url(address: str, where: str) -> str:
    """`address` as the base of a provider. Raises ValueError; what is wrong with it is told without the address."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or not address.isprintable() or " " in address:
        raise ValueError(f"{where}: must be an address such as https://llm.example/v1")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{where}: must hold no user and no password: a key has a setting of its own")
    if parts.query or parts.fragment:
        raise ValueError(f"{where}: must have no query and no fragment")
    if _is_metadata_host(parts.hostname):
        raise ValueError(f"{where}: is the address of a cloud's metadata")
    return address.rstrip("/")


def _is_metadata_host(host: str) -> bool:
    name = host.lower().rstrip(".")
    if name in _METADATA_NAMES:
        return True
    try:
        return is_metadata(parse(name))
    except ValueError:
        pass
    try:
        # The system's own reading of 0xa9fea9fe, 169.16689662 and the like; it asks nobody.
        return is_metadata(IPv4Address(socket.inet_aton(name)))
    except OSError:
        return False


def _within(total: float, patience: Patience) -> Patience:
    return replace(patience, total=total)


def _known(words: Sequence[str], known: Sequence[str], where: str) -> Sequence[str]:
    if strange := next((word for word in words if word not in known), None):
        raise ValueError(f"{where}: '{strange[:80]}' is not known; known are {', '.join(known)}")
    return words


def _key_in(path: Path, where: str) -> str:
    try:
        key = path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"{where}: the file cannot be read") from None
    return _usable(key, where)


def _usable(key: str, where: str) -> str:
    """`key`, fit for a header."""
    if not key or not key.isascii() or not key.isprintable():
        raise ValueError(f"{where}: the key is empty or holds strange characters")
    return key


class _Table:
    """One [[provider]] table."""

    def __init__(self, table: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self._table = table
        self._environ = environ
        self._name = str(table.get("name", ""))[:80]
        self._refuse_strange(table, _PROVIDER_KEYS, self._name)
        if not is_valid_name(self._name) or self._name in (LLM, WHISPERX):
            raise self._wrong("name", f"must be a name, and neither {LLM} nor {WHISPERX}, which have settings")

    def models(self) -> Sequence[ProvidedModel]:
        """The models of this table."""
        entry = ProviderEntry(
            self._name,
            checked_url(self._text(self._table, "base_url"), f"provider '{self._name}': base_url"),
            self._key(),
            frozenset(_known(self._texts(self._table, "extensions"), EXTENSIONS, f"provider '{self._name}'")),
            self._text(self._table, "max_tokens_field", "max_tokens"),
            self._text(self._table, "ca_file") or None,
            self._number(self._table, "max_in_flight", 128, 1, 10_000),
            self._patience(),
        )
        tables = self._table.get("models")
        if not isinstance(tables, list) or not tables or not all(isinstance(table, Mapping) for table in tables):
            raise self._wrong("models", "must be a list of tables such as { name = … , model = … }")
        return [self._model(table, entry) for table in tables]

    def _model(self, table: Mapping[str, Any], entry: ProviderEntry) -> ProvidedModel:
        name = self._text(table, "name")
        self._refuse_strange(table, _MODEL_KEYS, name)
        if not is_valid_name(name):
            raise self._wrong("name", f"'{name[:80]}' must be a model's name, such as big:72b")
        task = self._text(table, "task", Task.TEXT.value)
        if task not in (Task.TEXT.value, Task.EMBEDDING.value):
            raise self._wrong("task", "must be text or embedding")
        is_text = task == Task.TEXT.value
        dimensions = self._number(table, "dimensions", 0, 0, 1 << 16)
        if is_text is bool(dimensions):
            raise self._wrong("dimensions", "an embedding model needs them, a text model has none")
        default = ("completion",) if is_text else ("embedding",)
        return ProvidedModel(
            name,
            self._text(table, "model", name),
            entry,
            Task(task),
            self._number(table, "context_length", 0, 0, MAX_CONTEXT_LENGTH),
            tuple(_known(self._texts(table, "capabilities"), CAPABILITIES, f"model '{name}'")) or default,
            dimensions,
        )

    def _key(self) -> str | None:
        variable, file = self._text(self._table, "key_env"), self._text(self._table, "key_file")
        if variable and file:
            raise self._wrong("key_env", "stands beside key_file: one of them")
        if file:
            return _key_in(Path(file), f"provider '{self._name}': key_file")
        if not variable:
            return None
        return _usable(self._environ.get(variable, ""), f"provider '{self._name}': key_env {variable[:80]}")

    def _patience(self) -> Patience:
        times = {field: self._duration(key) for key, field in _TIMES.items() if key in self._table}
        return replace(Patience(), **times)  # type: ignore[arg-type]  # all of these are seconds

    def _duration(self, key: str) -> float:
        value = self._table[key]
        try:
            seconds = parse_go_duration(value) if isinstance(value, str) else float(value)
        except (TypeError, ValueError):
            raise self._wrong(key, "must be a duration such as 30s") from None
        if not 0 < seconds <= 86_400:
            raise self._wrong(key, "must be above 0 and at most a day")
        return seconds

    def _text(self, table: Mapping[str, Any], key: str, default: str = "") -> str:
        value = table.get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, "must be a text")
        return value

    def _texts(self, table: Mapping[str, Any], key: str) -> tuple[str, ...]:
        value = table.get(key, ())
        if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
            raise self._wrong(key, "must be a list of texts")
        return tuple(value)

    def _number(self, table: Mapping[str, Any], key: str, default: int, low: int, high: int) -> int:
        value = table.get(key, default)
        if type(value) is not int or not low <= value <= high:
            raise self._wrong(key, f"must be a whole number between {low} and {high}")
        return value

    def _refuse_strange(self, table: Mapping[str, Any], known: frozenset[str], name: str) -> None:
        if strange := sorted(table.keys() - known):
            raise ValueError(f"provider '{self._name}', '{name[:80]}': {strange[0]} is not known")

    def _wrong(self, key: str, reason: str) -> ValueError:
        return ValueError(f"provider '{self._name}': {key}: {reason}")

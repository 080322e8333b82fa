"""Settings of API keys: those that this server knows, and the one that the command line shows to a server."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, PlainSerializer, PlainValidator, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from domain.key_ring import KeyRing, parse_keys
from ingle.settings_types import split


def _ring(value: object) -> KeyRing:
    if isinstance(value, KeyRing):
        return value
    given = split(value)
    if not isinstance(given, list | tuple) or not all(isinstance(one, str) for one in given):
        raise ValueError("write keys as name:scope+scope:sha256-in-hex, several separated by commas")
    return parse_keys(tuple(given))


def _sendable(value: SecretStr | None) -> SecretStr | None:
    text = value.get_secret_value() if value else ""
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("must be printable ASCII without spaces")
    return value


class KeySettings(BaseSettings):
    """Who may use the server. Only digests of keys are kept here."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    api_keys: Annotated[KeyRing, PlainValidator(_ring), PlainSerializer(str)] = KeyRing()
    """Keys, separated by commas: lines that `ingle keys new` printed, or bare keys, which open everything. See
    `docs/keys.md`."""

    api_keys_file: Annotated[Path, AfterValidator(Path.expanduser)] | None = None
    """File with a key a line, read again when it changes; nobody else may be able to write it. `ingle keys new` adds
    to it. Once this or `INGLE_API_KEYS` is set, nothing is served without a key."""

    api_key: Annotated[SecretStr | None, AfterValidator(_sendable)] = None
    """Key that `ingle` itself shows to a running server, as in `ingle jobs list`."""

    @property
    def has_keys(self) -> bool:
        """Whether the server asks for keys."""
        return bool(self.api_keys.keys) or self.api_keys_file is not None

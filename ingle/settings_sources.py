"""Where settings come from: defaults < TOML file < .env < environment < command line."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from domain.model import nearest_names
from ingle.settings import From, Settings

PREFIX = "INGLE_"
CONFIG = "INGLE_CONFIG"
TOML_FILES = ("ingle.toml", "/etc/ingle/config.toml")
DOTENV_FILE = ".env"
NOT_SETTINGS = frozenset({CONFIG, "INGLE_TEST_REQUIRE", "INGLE_TEST_EXAMPLES"})


_SECRET_ENDINGS = ("_secret", "_token", "_key", "_keys", "database_url", "broker_url")


def masked(value: object) -> object:
    """`value` without the user and password that an address in it may hold."""
    return re.sub(r"//[^/@\s]+@", "//***@", value) if isinstance(value, str) else value


class BadSettings(Exception):
    """One or more settings cannot be used; each of `problems` names the setting, where it stood, and the reason."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """The settings, where each that is not a default came from, and what looked like a slip."""

    settings: Settings
    origins: Mapping[str, str]
    warnings: Sequence[str]


def names_of(setting: str) -> Sequence[str]:
    """The environment names of `setting`, strongest first."""
    return [PREFIX + setting.upper(), *(mark.name for mark in _marks(Settings.model_fields[setting]))]


def _marks(field: FieldInfo) -> Sequence[From]:
    return [mark for mark in field.metadata if isinstance(mark, From)]


class NamedValues(PydanticBaseSettingsSource):
    """Settings under their environment names in any mapping. An empty text counts as not set."""

    def __init__(self, values: Mapping[str, str | None]) -> None:
        super().__init__(Settings)
        self._values = values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """(value, name under which it stood, False), or (None, "", False)."""
        for mark in (From(PREFIX + field_name.upper()), *_marks(field)):
            text = self._values.get(mark.name)
            value = mark.take(text) if text else None
            if value:
                return value, mark.name, False
        return None, "", False

    def names(self) -> Mapping[str, str]:
        """Setting → the name under which it stands here."""
        found = {name: self.get_field_value(field, name)[1] for name, field in Settings.model_fields.items()}
        return {setting: name for setting, name in found.items() if name}

    def __call__(self) -> dict[str, Any]:
        """Setting → raw value, for the settings that stand here."""
        return {setting: self.get_field_value(Settings.model_fields[setting], setting)[0] for setting in self.names()}


def read_settings(
    environ: Mapping[str, str],
    *,
    command_line: Mapping[str, object] | None = None,
    config: Path | None = None,
    directory: Path | None = None,
) -> ReadSettings:
    """Gather all sources; `command_line` maps setting names to values, None meaning not given.

    `config` outranks INGLE_CONFIG; `directory` is where `ingle.toml` and `.env` are looked for (default: the
    working directory). Raises BadSettings with every problem at once.
    """
    directory = directory or Path.cwd()
    dotenv = dotenv_values(directory / DOTENV_FILE, interpolate=False)
    toml_file = _toml_file(config or environ.get(CONFIG) or dotenv.get(CONFIG), directory)
    toml = _read_toml(toml_file) if toml_file else {}

    origins: dict[str, str] = {}
    values: dict[str, object] = {}
    for setting, value in (command_line or {}).items():
        if value is not None:
            values[setting], origins[setting] = value, "command line"
    for source, suffix in ((NamedValues(environ), ""), (NamedValues(dotenv), f" in {DOTENV_FILE}")):
        found = source()
        for setting, name in source.names().items():
            if setting not in values:
                values[setting], origins[setting] = found[setting], name + suffix
    for setting, value in toml.items():
        if setting in Settings.model_fields and setting not in values:
            values[setting], origins[setting] = value, f"{setting} in {toml_file}"

    try:
        settings = Settings(**values)  # type: ignore[arg-type]  # raw values: the class checks and converts them
    except ValidationError as error:
        raise BadSettings(_problems(error, origins)) from None
    unknown = [*_unknown_names(environ, ""), *_unknown_names(dotenv, f" in {DOTENV_FILE}")]
    unknown += [
        _slip(key, f" in {toml_file}", Settings.model_fields) for key in toml if key not in Settings.model_fields
    ]
    return ReadSettings(settings, origins, unknown)


def _toml_file(named: Path | str | None, directory: Path) -> Path | None:
    if named:
        return Path(named).expanduser()
    return next((path for path in (directory / name for name in TOML_FILES) if path.is_file()), None)


def _read_toml(path: Path) -> Mapping[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadSettings([f"the configuration file {path} cannot be read: {reason}"]) from None


def _problems(error: ValidationError, origins: Mapping[str, str]) -> Sequence[str]:
    problems = []
    for problem in error.errors():
        if problem["type"] == "default_factory_not_called":  # only says that another setting is bad
            continue
        setting = str(problem["loc"][0])
        name = PREFIX + setting.upper()
        origin = origins.get(setting, "constructor")
        where = name if origin == name else f"{name} (from {origin})"
        reason = problem["msg"].removeprefix("Value error, ")
        # What is wrong may be just where a secret begins, so no mask would be sure to find it.
        given = "" if setting.endswith(_SECRET_ENDINGS) else f"; given: {masked(problem['input'])!r:.80}"
        problems.append(f"{where}: {reason}{given}")
    return problems


def _unknown_names(values: Mapping[str, object], suffix: str) -> Sequence[str]:
    known = {PREFIX + setting.upper() for setting in Settings.model_fields} | NOT_SETTINGS
    return [_slip(name, suffix, known) for name in sorted(values) if name.startswith(PREFIX) and name not in known]


def _slip(name: str, suffix: str, known: Mapping[str, object] | frozenset[str] | set[str]) -> str:
    by_rest = {other.removeprefix(PREFIX): other for other in known}
    nearest = nearest_names(name.removeprefix(PREFIX), by_rest, limit=1)
    return f"{name}{suffix} is not a setting" + (f": did you mean {by_rest[nearest[0]]}?" if nearest else "")

"""`docs/settings.md`, made from the settings class."""

import math
from collections.abc import Mapping

from pydantic.fields import FieldInfo

from ingle.settings import Duration, Settings, Shown
from ingle.settings_sources import TOML_FILES, names_of

_HEAD = f"""\
# Settings

<!-- Made from ingle/settings.py by `make docs`; `make check` sees to it that it is current. -->

Later sources win: the defaults below, a TOML file (`INGLE_CONFIG`, else `{"`, else `".join(TOML_FILES)}`; keys in lower
case), `.env` in the working directory, the environment, the command line. A setting with several names in the first
column takes the first that is set; an empty value counts as not set. Durations are written like `300ms`, `90s`, `5m`,
`1.5h`, or as seconds; lists with commas. `ingle config show` prints every value and where it came from,
`ingle config check` only says what is wrong.

| Names | Default | Meaning |
|---|---|---|
"""


def render() -> str:
    """The whole document."""
    return _HEAD + "".join(_row(setting, field) for setting, field in Settings.model_fields.items())


def _row(setting: str, field: FieldInfo) -> str:
    names = " ".join(f"`{name}`" for name in names_of(setting))
    meaning = " ".join((field.description or "").split())
    return f"| {names} | {_default(field)} | {meaning} |\n"


def _default(field: FieldInfo) -> str:
    shown = next((mark.text for mark in field.metadata if isinstance(mark, Shown)), None)
    if shown is None:
        shown = written(field.get_default(call_default_factory=True, validated_data={}), field)
    return f"`{shown}`" if shown else "none"


def written(value: object, field: FieldInfo) -> str:
    """`value` as one would write it into the environment; empty where there is none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ",".join(f"{key}={target}" for key, target in value.items())
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, float):
        return _duration(value) if any(isinstance(mark, Duration) for mark in field.metadata) else f"{value:g}"
    return repr(value)[1:-1] if isinstance(value, str) else str(value)


def _duration(seconds: float) -> str:
    if math.isinf(seconds):
        return "-1"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [f"{figure:g}{unit}" for figure, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if figure]
    return "".join(parts) or "0"

"""Types of settings that several groups of settings share."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from domain.keep_alive import parse_go_duration
from domain.model import DEVICE_PATTERN
from ingle.settings_marks import Duration

DAY = 86_400.0


def is_number(text: str) -> bool:
    """Whether `text` is a number as Python writes it."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def seconds(value: object) -> object:
    """Seconds of a duration such as `5m`; anything else as it stands."""
    return parse_go_duration(value) if isinstance(value, str) and not is_number(value) else value


def split(value: object) -> object:
    """The parts of a text between commas; anything else as it stands."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def lower(value: object) -> object:
    """A text in lower case; anything else as it stands."""
    return value.lower() if isinstance(value, str) else value


def _device(value: str) -> str:
    if not DEVICE_PATTERN.fullmatch(value):
        raise ValueError("must be auto, cpu, cuda or cuda:N")
    return value


Device = Annotated[str, BeforeValidator(lower), AfterValidator(_device)]
Seconds = Annotated[float, Duration(), BeforeValidator(seconds), Field(gt=0, le=DAY, allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], BeforeValidator(split)]

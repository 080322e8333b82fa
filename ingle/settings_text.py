"""Settings of the text engine."""

from typing import Annotated, Literal

from pydantic import BeforeValidator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class TextSettings(BaseSettings):
    """How answers are written."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    speculation: Annotated[Literal["auto", "off"], BeforeValidator(_lower)] = "auto"
    """Whether greedy answers are guessed at from what was said before: `auto` where it pays and changes none, `off`."""

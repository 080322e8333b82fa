"""What is noted beside a setting's type."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class From:
    """A further environment name of a setting; `take` picks the setting's part of the text, None if it has none."""

    name: str
    take: Callable[[str], str | None] = str


@dataclass(frozen=True, slots=True)
class Shown:
    """How a default that depends on the machine is written in documents."""

    text: str


@dataclass(frozen=True, slots=True)
class Duration:
    """Marks seconds that are written like `5m`."""

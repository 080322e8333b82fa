"""What a caller should know about an answer, or about a model, that was given all the same."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caveat:
    """Something that a caller should know about an answer that was given all the same, and how often it is so."""

    code: str
    message: str
    count: int | None = None

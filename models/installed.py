"""Values that the store hands out."""

from dataclasses import dataclass
from pathlib import Path

from domain.model import ModelSpec


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a model on disk. `sha256` is None where nobody vouched for it: it was placed by a person."""

    name: str
    path: Path
    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model on disk.

    `directory` holds the `files` (for a lone GGUF file: the folder that it lies in); `digest` is 64 hex digits
    that change whenever the files do, so that models with the same weights share it; `modified_at` is in seconds
    since the epoch. `is_placed` is true for a model that a person put there; `made_from` is the model that a
    copy, or a model with a preset of its own, goes back to. `lost` says why its files are not there.
    """

    spec: ModelSpec
    directory: Path
    files: tuple[StoredFile, ...]
    digest: str
    modified_at: float = 0.0
    is_placed: bool = False
    made_from: str | None = None
    lost: str = ""

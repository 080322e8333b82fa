"""What `ingle transcribe` is asked to listen to: files, folders of files, addresses."""

import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import click

_SOUNDING = ("audio/", "video/")
# Containers that the system's table of types may not know.
_SUFFIXES = frozenset((".aac", ".amr", ".caf", ".flac", ".m4a", ".mka", ".mkv", ".oga", ".ogg", ".opus", ".webm"))


@dataclass(frozen=True, slots=True)
class Source:
    """A recording: a file of this machine, or an address."""

    shown: str
    name: str
    path: Path | None = None

    @property
    def url(self) -> str | None:
        """The address, if it is one."""
        return self.shown if self.path is None else None


def sources_of(arguments: Sequence[str]) -> list[Source]:
    """The recordings that the arguments name, folders opened up. Raises UsageError for what is not there."""
    sources: list[Source] = []
    for argument in arguments:
        if argument.lower().startswith(("http://", "https://")):
            name = PurePosixPath(unquote(urlsplit(argument).path)).name
            sources.append(Source(argument, name or "recording"))
            continue
        path = Path(argument)
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.is_file() and _sounds(file))
            if not found:
                raise click.UsageError(f"there is no recording in the folder '{argument}'")
            sources += [_file(file) for file in found]
        elif path.exists():
            sources.append(_file(path))
        else:
            raise click.UsageError(f"File '{argument}' does not exist.")
    return sources


def _file(path: Path) -> Source:
    return Source(str(path), path.name, path)


def _sounds(path: Path) -> bool:
    """By its name, so that the texts and pictures beside a recording are not listened to."""
    kind, _ = mimetypes.guess_type(path.name)
    return path.suffix.lower() in _SUFFIXES or (kind or "").startswith(_SOUNDING)


class Delivery:
    """Where texts go: one after the other to standard output, into one file, or each into its own of a folder."""

    def __init__(self, target: Path | None, suffix: str, *, several: bool) -> None:
        self._target = target
        self._suffix = suffix
        self._several = several
        self._taken: set[Path] = set()
        if target is not None and several:
            target.mkdir(parents=True, exist_ok=True)

    def __call__(self, source: Source, text: str) -> None:
        """Deliver the text of one recording."""
        text = text if text.endswith("\n") else f"{text}\n"
        if self._target is None:
            if self._several:
                click.echo(f"==> {source.shown} <==")
            click.echo(text, nl=False)
        elif self._several:
            self._free_path(self._target, source.name).write_text(text, encoding="utf-8")
        else:
            self._target.write_text(text, encoding="utf-8")

    def _free_path(self, folder: Path, name: str) -> Path:
        """Recordings that differ in their folders or suffixes only do not overwrite each other's texts."""
        stem, number = Path(name).stem, 1
        path = folder / f"{stem}.{self._suffix}"
        while path in self._taken:
            number += 1
            path = folder / f"{stem}-{number}.{self._suffix}"
        self._taken.add(path)
        return path

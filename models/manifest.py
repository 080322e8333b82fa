"""The record that a model is installed, complete and checked."""

import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from domain.errors import InvalidRequest
from domain.model import ModelSpec, Task, WeightFormat, is_valid_name
from domain.preset import Preset
from models.catalog import MAX_FILE_BYTES, is_model_file
from models.layout import Layout, key_of, write_atomically
from models.stored_preset import preset_document, read_preset

_log = logging.getLogger(__name__)

_VERSION = 1
_MAX_BYTES = 1 << 20
# What a manifest says of the model; all else in a ModelSpec is known from elsewhere.
_KEPT = (
    *("id", "title", "task", "format", "family", "context_length", "size_bytes"),
    *("parameters", "licence", "hub_id", "capabilities"),
)
PLACED = "placed"
"""The source, in `origin`, of models that were made from one that a person placed."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """A stored file. `verified_by` tells who vouched for its bytes: catalogue, hub-lfs or hub-git."""

    name: str
    size: int
    sha256: str
    verified_by: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A name, what is known of the model, and its files in the artefact `artefact`.

    `origin` says where the files came from and, for a model that was made from another, under `made_from` which
    model that goes back to. Where a person placed that one, its files are found anew each time and `files` is empty.
    `pulled_at` is in seconds since the epoch.
    """

    spec: ModelSpec
    files: tuple[ManifestFile, ...]
    origin: Mapping[str, str] = field(default_factory=dict)
    pulled_at: float = field(default_factory=time.time)

    @property
    def artefact(self) -> str:
        """64 hex digits that stand for the files: the hash of their names, sizes and hashes."""
        return artefact_digest((file.name, file.size, file.sha256) for file in self.files)

    @property
    def digest(self) -> str:
        """64 hex digits that stand for the model: the files, and what it brings along of its own."""
        return self.digest_over(self.artefact)

    def digest_over(self, artefact: str) -> str:
        """The same with the files of `artefact`."""
        if self.spec.preset == Preset():
            return artefact
        own = [artefact, preset_document(self.spec.preset), self.spec.licence]
        return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()

    @property
    def made_from(self) -> str | None:
        """The name of the model that this one goes back to; None for a pulled one."""
        return self.origin.get("made_from")

    @property
    def is_of_placed(self) -> bool:
        """Whether it was made from a model that a person placed."""
        return self.origin.get("source") == PLACED

    def write(self, path: Path) -> None:
        """Publish the manifest; from this moment on the model is installed.

        Raises InvalidRequest where what the model brings along is too large to be kept, and OSError.
        """
        document = {
            "version": _VERSION,
            "model": {name: value for name, value in asdict(self.spec).items() if name in _KEPT},
            "preset": preset_document(self.spec.preset),
            "files": [asdict(file) for file in self.files],
            "origin": dict(self.origin),
            "pulled_at": self.pulled_at,
        }
        content = json.dumps(document, indent=1).encode()
        if len(content) > _MAX_BYTES:
            raise InvalidRequest(f"a model's texts and messages may take at most {_MAX_BYTES} bytes in all")
        write_atomically(path, content)

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """The manifest at `path`. Raises ValueError where it is not one, FileNotFoundError where there is none."""
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        try:
            if len(content) > _MAX_BYTES:
                raise ValueError("it is too large")
            document = json.loads(content)
            if document["version"] != _VERSION:
                raise ValueError(f"it has version {document['version']!r}, this Ingle reads version {_VERSION}")
            return cls(
                spec=_spec(document["model"], document.get("preset")),
                files=_files(document["files"], may_be_none=document["origin"].get("source") == PLACED),
                origin={str(key): str(value) for key, value in document["origin"].items()},
                pulled_at=float(document["pulled_at"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError, InvalidRequest) as error:
            raise ValueError(f"{path.name} is not a manifest: {error!r}") from error


def read_manifest(layout: Layout, key: str) -> Manifest | None:
    """The manifest of the model with this key; None where there is none that can be read."""
    try:
        return Manifest.read(layout.manifests / f"{key}.json")
    except FileNotFoundError:
        return None
    except ValueError as error:
        _log.warning("models folder: %s", error)
        return None


class Manifests:
    """Every manifest there is, each read again only when it changed."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._read: dict[str, tuple[tuple[int, int, int], Manifest | None]] = {}

    def all(self) -> Sequence[Manifest]:
        """The readable ones, by name. One that cannot be read is passed over with a warning, once."""
        with self._lock:
            current = {}
            for path in sorted(self._layout.manifests.glob("*.json")):
                try:
                    status = path.stat()
                    stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
                    known = self._read.get(path.name)
                    current[path.name] = known if known and known[0] == stamp else (stamp, self._open(path))
                except FileNotFoundError:
                    continue  # removed a moment ago
            self._read = current
            return [manifest for _, manifest in current.values() if manifest is not None]

    def _open(self, path: Path) -> Manifest | None:
        manifest = read_manifest(self._layout, path.stem)
        if manifest is not None and key_of(manifest.spec.id) != path.stem:
            _log.warning("models folder: %s is the manifest of another model", path.name)
            return None
        return manifest


def artefact_digest(files: Iterable[tuple[str, int, str]]) -> str:
    """64 hex digits for a set of (name, size in bytes, hash or stamp), in whatever order they come."""
    lines = sorted(f"{digest} {size} {name}\n" for name, size, digest in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _spec(table: Mapping[str, Any], preset: Mapping[str, Any] | None) -> ModelSpec:
    values = {name: value for name, value in table.items() if name in _KEPT}
    values["task"] = Task(values["task"])
    values["format"] = WeightFormat(values["format"])
    values["capabilities"] = tuple(str(capability) for capability in values["capabilities"])
    spec = ModelSpec(**values, preset=Preset() if preset is None else read_preset(preset))
    if not is_valid_name(spec.id):
        raise ValueError("its name is not a model's")
    return spec


def _files(tables: Sequence[Mapping[str, Any]], *, may_be_none: bool) -> tuple[ManifestFile, ...]:
    files = tuple(ManifestFile(**table) for table in tables)
    for file in files:
        sound = isinstance(file.size, int) and 0 <= file.size <= MAX_FILE_BYTES and _SHA256.fullmatch(file.sha256)
        if not sound or not is_model_file(file.name):
            raise ValueError("one of its files is not a model's")
    if not files and not may_be_none:
        raise ValueError("it has no files")
    return files

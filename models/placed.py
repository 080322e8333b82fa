"""Models that a person put into the models folder: a directory with weights, or a GGUF file.

The name of the directory, or of the file without `.gguf`, is the model's name. The entry itself may be a symbolic
link that its owner made, to another disk for example; nothing inside it may lead out of what it points to.
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from domain.model import ModelSpec, is_valid_name
from models.describe import Unusable, describe, model_files
from models.installed import InstalledModel, StoredFile
from models.manifest import artefact_digest

_log = logging.getLogger(__name__)

_GGUF = ".gguf"

_Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Rejected:
    """Something in the models folder that has a model's name and cannot be loaded, and why."""

    name: str
    reason: str


class PlacedModels:
    """What lies in the models folder, and `elsewhere` under names that the operator gave.

    Files are read again only where their names, sizes or times changed.
    """

    def __init__(self, root: Path, elsewhere: Mapping[str, Path] | None = None) -> None:
        self._root = root
        self._elsewhere = dict(elsewhere or {})
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[_Signature, InstalledModel | Rejected]] = {}

    def all(self) -> list[InstalledModel | Rejected]:
        """Every model here, and everything that looks like one, by name."""
        with self._lock:
            found = {name: self._look_at(name, path) for name, path in self._candidates()}
            self._seen = found
        return [seen for _, seen in found.values()]

    def _candidates(self) -> Iterator[tuple[str, Path]]:
        """(name, path) of what may be a model; of two with one name, the one that the operator named comes last."""
        try:
            entries = sorted(self._root.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            entries = []
        for path in entries:
            if path.name.startswith(".") or not is_valid_name(_name_of(path)):
                continue
            if path.is_dir() or (path.suffix == _GGUF and path.is_file()):
                yield _name_of(path), path
        yield from self._elsewhere.items()

    def _look_at(self, name: str, path: Path) -> tuple[_Signature, InstalledModel | Rejected]:
        try:
            signature = _signature(path)
            known = self._seen.get(name)
            if known is not None and known[0] == signature:
                return known
            return signature, _installed(path, describe(path, name), signature)
        except (Unusable, OSError) as error:
            reason = str(error) if isinstance(error, Unusable) else error.strerror or "it cannot be read"
            known = self._seen.get(name)
            if known is None or known[1] != Rejected(name, reason):
                _log.warning("models folder: '%s' is not offered: %s", name, reason)
            return (), Rejected(name, reason)


def _name_of(path: Path) -> str:
    return path.name.removesuffix(_GGUF) if path.suffix == _GGUF else path.name


def _signature(path: Path) -> _Signature:
    """(name, size, modification time in ns, inode) of each file: equal as long as the model is the same."""
    folder = path if path.is_dir() else path.parent
    names = model_files(path) if path.is_dir() else [path.name]
    stats = [(name, (folder / name).stat()) for name in names]
    return tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats)


def _installed(path: Path, spec: ModelSpec, signature: _Signature) -> InstalledModel:
    directory = path if path.is_dir() else path.parent
    digest = artefact_digest((file, size, f"{modified}-{inode}") for file, size, modified, inode in signature)
    modified_at = max(modified for _, _, modified, _ in signature) / 1e9
    return InstalledModel(
        spec=replace(spec, digest=digest, modified_at=modified_at),
        directory=directory,
        files=tuple(StoredFile(file, directory / file, size, None) for file, size, _, _ in signature),
        digest=digest,
        modified_at=modified_at,
        is_placed=True,
    )

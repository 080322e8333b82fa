"""What crashes and removed models left behind goes, and nothing that anybody may still want."""

import logging
import re
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from models.layout import Layout
from models.manifest import Manifest

_log = logging.getLogger(__name__)

_STAGING_LIFE = 14 * 86_400.0
_ORPHAN_LIFE = 86_400.0
# With the dot it is a copy on its way.
_CONVERTED = re.compile(r"(\.?)([0-9a-f]{64})-.+")


def sweep(layout: Layout, placed: Collection[str], *, now: float | None = None) -> None:
    """Remove downloads that nobody continued for two weeks, artefacts that no manifest uses, and their copies.

    An artefact without a manifest is a pull that was killed between two steps; the next pull of that model takes
    it up, so it is given a day. `placed` are the digests of models that persons placed: their copies stay.
    """
    now = time.time() if now is None else now
    for folder in _entries(layout.staging):
        if now - _newest(folder) > _STAGING_LIFE:
            _unless_locked(layout, folder)
    with layout.publishing():
        for temporary in (*layout.manifests.glob("*.tmp"), *layout.verified.glob("*.tmp")):
            if now - temporary.stat().st_mtime > _ORPHAN_LIFE:
                temporary.unlink(missing_ok=True)
        used = used_digests(layout)
        if used is None:
            return  # a manifest that this version cannot read may use any of them
        for stamps in layout.verified.glob("*.json"):
            if stamps.stem not in used and now - stamps.stat().st_mtime > _ORPHAN_LIFE:
                stamps.unlink(missing_ok=True)
        for directory in _entries(layout.artefacts):
            if directory.name not in used and now - _newest(directory) > _ORPHAN_LIFE:
                shutil.rmtree(directory, ignore_errors=True)
        for directory in _entries(layout.converted):
            match = _CONVERTED.fullmatch(directory.name)
            kept = match is None or (not match[1] and (match[2] in used or match[2] in placed))
            if not kept and now - _newest(directory) > _ORPHAN_LIFE:
                shutil.rmtree(directory, ignore_errors=True)


def used_digests(layout: Layout) -> set[str] | None:
    """The artefacts that manifests name; None where a manifest cannot be read."""
    try:
        return {Manifest.read(path).artefact for path in layout.manifests.glob("*.json")}
    except (ValueError, FileNotFoundError):
        return None


def drop_artefact(layout: Layout, digest: str) -> None:
    """Remove the artefact `digest`, which no manifest names any more, and every converted copy of it.

    What cannot be removed now is left for a later sweep.
    """
    _remove(layout.artefacts / digest)
    for directory in _entries(layout.converted):
        match = _CONVERTED.fullmatch(directory.name)
        if match and match[2] == digest:
            _remove(directory)


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        _log.warning("models folder: %s cannot be removed now and is left for later", directory.name)


def _unless_locked(layout: Layout, folder: Path) -> None:
    class Busy(Exception):
        """Somebody pulls that model just now."""

    def refuse() -> None:
        raise Busy

    try:
        with layout.lock(folder.name, wait=refuse):
            shutil.rmtree(folder, ignore_errors=True)
    except Busy:
        return


def _entries(folder: Path) -> Iterable[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _newest(folder: Path) -> float:
    """When something in `folder` was last changed, in seconds since the epoch."""

    def times() -> Iterator[float]:
        yield 0.0
        for path in (folder, *folder.rglob("*")):
            try:
                yield path.stat().st_ctime
            except FileNotFoundError:
                continue  # its owner is at work on it just now

    return max(times())

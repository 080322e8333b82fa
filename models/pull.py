"""A pull from beginning to end: which artefact, which mirror, and the moment when the model becomes visible."""

import logging
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from domain.errors import DownloadFailed, InsufficientStorage
from domain.library import PullProgress, PullStage
from domain.model import ModelSpec
from models.catalog import (
    CatalogEntry,
    CatalogFile,
    HubMirror,
    IndexMirror,
    LocalMirror,
    Mirror,
    is_model_file,
)
from models.describe import Unusable, describe
from models.installed import InstalledModel, StoredFile
from models.layout import NO_ROOM, Layout, key_of, sync_directory
from models.manifest import Manifest, ManifestFile, artefact_digest, read_manifest
from models.sources.source import Cancellation, DownloadPlan, MirrorFailed, Source
from models.staging import Report, Staging
from models.sweep import sweep
from models.verification import Verifier

_log = logging.getLogger(__name__)

_SOURCE_OF: Mapping[type, str] = {IndexMirror: "index", HubMirror: "hub", LocalMirror: "local"}
_MAX_FILES = 500


@dataclass(frozen=True, slots=True)
class PullLimits:
    """Bytes of disk that stay free, and bytes that one pull may bring."""

    disk_floor: int = 2 << 30
    largest_pull: int = 60 * 10**9


@dataclass(frozen=True, slots=True)
class _Goal:
    """What would make the model installed: these files (none: whatever the mirror has), from one of these mirrors."""

    files: tuple[ManifestFile, ...]
    mirrors: tuple[Mirror, ...]
    origin: Mapping[str, str]

    @property
    def digest(self) -> str:
        return artefact_digest((file.name, file.size, file.sha256) for file in self.files)


class Pull:
    """Brings one model onto this disk, or repairs it. `run` is called once."""

    def __init__(
        self,
        entry: CatalogEntry,
        layout: Layout,
        verifier: Verifier,
        sources: Mapping[str, Source],
        limits: PullLimits,
        placed: Collection[str],
        report: Report,
        cancellation: Cancellation,
    ) -> None:
        self._entry = entry
        self._placed = placed
        self._key = key_of(entry.spec.id)
        self._layout = layout
        self._verifier = verifier
        self._sources = sources
        self._limits = limits
        self._report = _never_back(report)
        self._cancellation = cancellation
        self._staging = Staging(layout.staging / self._key, self._report, cancellation)

    def run(self) -> None:
        """Returns once the model is installed and intact.

        Raises DownloadFailed naming each mirror and its reason, InsufficientStorage, RequestCancelled.
        """
        self._report(PullProgress(PullStage.MANIFEST))
        try:
            with self._layout.lock(self._key, wait=lambda: self._cancellation.sleep(0.1)):
                sweep(self._layout, self._placed)
                self._install()
        except OSError as error:
            if error.errno in NO_ROOM:
                shutil.rmtree(self._layout.staging / self._key, ignore_errors=True)
                raise InsufficientStorage("the disk is full: make room and pull again") from error
            raise DownloadFailed(f"the models folder cannot be used: {error.strerror}") from error
        self._report(PullProgress(PullStage.DONE))

    def _install(self) -> None:
        installed = read_manifest(self._layout, self._key)
        if installed is not None and not self._missing(installed.files, installed.artefact):
            return
        failures: list[tuple[str, str]] = []
        for goal in self._goals(installed):
            missing = self._missing(goal.files, goal.digest)
            if goal.files and not missing:
                self._publish(installed.spec if installed else self._entry.spec, goal.files, goal.origin)
                return
            for mirror in goal.mirrors:
                source = self._sources.get(_SOURCE_OF[type(mirror)])
                if source is None:
                    continue
                try:
                    plan = source.plan(mirror, missing, self._cancellation)
                    self._check(plan, missing)
                    hashes = self._staging.fill(plan, source, self._free_bytes)
                except MirrorFailed as error:
                    _log.warning("pull of %s: %s failed: %s", self._entry.spec.id, source.label, error)
                    failures.append((source.label, str(error)))
                else:
                    spec = installed.spec if installed else self._describe()
                    self._publish(spec, goal.files or _files_of(plan, hashes), plan.origin)
                    return
        if installed is not None and not failures:
            raise DownloadFailed(
                f"'{self._entry.spec.id}' is damaged and its files are no longer in the catalogue: remove it with "
                f"`ingle models rm {self._entry.spec.id}` and pull it again"
            )
        raise _download_failed(self._entry.spec.id, failures)

    def _goals(self, installed: Manifest | None) -> Iterator[_Goal]:
        """What would do, best first. A damaged model is repaired with files of its own artefact only."""
        for artefact in self._entry.artefacts:
            files = tuple(ManifestFile(f.name, f.size, f.sha256, "catalogue") for f in artefact.files)
            local = (LocalMirror(self._key.replace("@", "-").replace("+", "-")),) if files else ()
            goal = _Goal(files, (*local, *artefact.mirrors), {"source": "catalogue"})
            if installed is None:
                yield goal
            elif files and goal.digest == installed.artefact:
                yield _Goal(installed.files, goal.mirrors, installed.origin)
        if installed is not None and installed.origin.get("source") == "hub":
            mirror = HubMirror(installed.origin["repository"], installed.origin["revision"])
            yield _Goal(installed.files, (mirror,), installed.origin)

    def _missing(self, files: Sequence[ManifestFile], digest: str) -> Sequence[CatalogFile]:
        """The files that are not, or not intact, in the artefact `digest`."""
        directory = self._layout.artefacts / digest
        stored = tuple(StoredFile(f.name, directory / f.name, f.size, f.sha256) for f in files)
        damaged = self._verifier.damaged(InstalledModel(self._entry.spec, directory, stored, digest))
        return [CatalogFile(file.name, file.size, file.sha256 or "") for file in damaged]

    def _check(self, plan: DownloadPlan, wanted: Sequence[CatalogFile]) -> None:
        """Refuse a plan that a hostile or broken mirror made: names, counts and sizes."""
        names = [file.name for file in plan.files]
        if not names or len(names) > _MAX_FILES or len(set(names)) != len(names):
            raise MirrorFailed("its list of files is empty, too long or has a name twice")
        if not all(is_model_file(name) for name in names) or any(file.size < 0 for file in plan.files):
            raise MirrorFailed("its list of files holds one that may not be fetched")
        if wanted and set(names) != {file.name for file in wanted}:
            raise MirrorFailed("its list of files is not what was asked for")
        total = sum(file.size for file in plan.files)
        if total > self._limits.largest_pull:
            raise InsufficientStorage(
                f"the model has {total / 1e9:.1f} GB and a pull may bring {self._limits.largest_pull / 1e9:.1f} GB: "
                "raise INGLE_MAX_PULL_GB",
                needed_bytes=total,
                available_bytes=self._limits.largest_pull,
            )

    def _free_bytes(self) -> int:
        return self._layout.free_bytes() - self._limits.disk_floor

    def _publish(self, spec: ModelSpec, files: tuple[ManifestFile, ...], origin: Mapping[str, str]) -> None:
        """Let the artefact appear, whole, and then the manifest that says so. Never the other way round."""
        manifest = Manifest(replace(spec, size_bytes=sum(file.size for file in files)), files, origin)
        self._cancellation.check()
        self._report(PullProgress(PullStage.PUBLISHING))
        with self._layout.publishing():
            directory = self._layout.artefacts / manifest.artefact
            _move(self._staging.files, directory)
            stored = [StoredFile(f.name, directory / f.name, f.size, f.sha256) for f in files]
            if any(not f.path.is_file() or f.path.stat().st_size != f.size for f in stored):
                raise DownloadFailed("the model was removed while it was pulled: pull it again")
            self._verifier.vouch(manifest.artefact, stored)
            manifest.write(self._layout.manifests / f"{self._key}.json")
        self._staging.clear()

    def _describe(self) -> ModelSpec:
        """What the model is; read off its staged files where no catalogue tells it."""
        spec = self._entry.spec
        if not self._entry.is_made_up:
            return spec
        try:
            found = describe(self._staging.files, spec.id)
        except Unusable as error:
            self._staging.clear()
            raise DownloadFailed(f"'{spec.id}' is not a model that Ingle can load: {error}") from error
        return replace(found, title=spec.title, hub_id=spec.hub_id)


def _files_of(plan: DownloadPlan, hashes: Mapping[str, str]) -> tuple[ManifestFile, ...]:
    return tuple(ManifestFile(file.name, file.size, hashes[file.name], file.verified_by) for file in plan.files)


def _move(staged: Path, directory: Path) -> None:
    """Put staged files where the artefact lies: all in one step, or one by one into what is there already."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    if not staged.is_dir():
        return
    for folder in (staged, *(path for path in staged.rglob("*") if path.is_dir())):
        sync_directory(folder)
    if directory.exists():
        for path in staged.rglob("*"):
            if path.is_file():
                target = directory / path.relative_to(staged)
                target.parent.mkdir(exist_ok=True)
                path.replace(target)
                sync_directory(target.parent)
    else:
        staged.rename(directory)
    sync_directory(directory.parent)


def _never_back(report: Report) -> Report:
    """`report` with figures that never fall, also when the next mirror starts a file anew."""
    highest: dict[str, int] = {}

    def forward(progress: PullProgress) -> None:
        if progress.file:
            completed = highest[progress.file] = max(progress.completed, highest.get(progress.file, 0))
            progress = replace(progress, completed=completed)
        report(progress)

    return forward


def _download_failed(name: str, failures: Sequence[tuple[str, str]]) -> DownloadFailed:
    if not failures:
        return DownloadFailed(f"'{name}' cannot be pulled: no source that has it is configured")
    reasons = "; ".join(f"{mirror}: {reason}" for mirror, reason in failures)
    return DownloadFailed(
        f"'{name}' could not be downloaded ({reasons})",
        mirrors=[{"mirror": mirror, "reason": reason} for mirror, reason in failures],
    )

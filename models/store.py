"""The models on this machine's disk: what is installed, and how models come and go."""

import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from domain.errors import InvalidRequest, ModelLoadFailed, ModelNotFound
from domain.library import PullProgress, PullStage
from domain.model import ModelSpec, is_valid_name, nearest_names, resolve_name
from models.catalog import HUB_HOSTS, Catalog, CatalogEntry, hub_entry
from models.installed import InstalledModel, StoredFile
from models.layout import Layout, key_of, sync_directory
from models.manifest import Manifest, Manifests
from models.placed import PlacedModels, Rejected
from models.pull import Pull, PullLimits
from models.shared_pulls import SharedPulls
from models.sources.source import Cancellation, Source
from models.staging import Report
from models.sweep import drop_converted, used_digests
from models.verification import Verifier

__all__ = ["InstalledModel", "ModelStore", "PullLimits", "StoredFile"]

_REGISTRY_PREFIXES = ("registry.ollama.ai/library/", "library/")
_LAYOUT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


class ModelStore:
    """Models on disk: pulled ones, each with a manifest, and those that a person put into `root`.

    Synchronous and thread-safe; several processes may share one `root`. `sources` are named `index`, `hub` and
    `local`; a kind that is missing is not asked. `aliases` are the operator's own, stronger than the catalogue's.
    Making a store touches no disk.
    """

    def __init__(
        self,
        root: Path,
        catalog: Catalog,
        sources: Mapping[str, Source],
        *,
        aliases: Mapping[str, str] | None = None,
        limits: PullLimits | None = None,
    ) -> None:
        self._layout = Layout(root)
        self._catalog = catalog
        self._sources = sources
        self._aliases = {**_lowered(catalog.aliases), **_lowered(aliases or {})}
        self._limits = limits or PullLimits()
        self._verifier = Verifier(self._layout)
        self._placed = PlacedModels(root)
        self._pulls = SharedPulls()
        self._manifests = Manifests(self._layout)

    # -- looking ----------------------------------------------------------------------------------------

    def installed(self) -> Sequence[InstalledModel]:
        """Every model on disk, by name. Where a pulled and a placed model share a name, the placed one counts."""
        return list(self._index()[0].values())

    def known(self) -> Sequence[CatalogEntry]:
        """Everything that the catalogue lists, installed or not."""
        return self._catalog.entries

    def find(self, name: str) -> InstalledModel:
        """The installed model that `name` means, in any spelling of `domain.model.resolve_name`.

        Raises ModelNotFound with the nearest names or a hint to pull, and ModelLoadFailed with the reason for
        something in the models folder that has this name and cannot be loaded.
        """
        models, rejected = self._index()
        specs = [model.spec for model in models.values()]
        if found := resolve_name(name, specs, self._aliases):
            return models[found.id.lower()]
        for reject in rejected:
            if reject.name.lower() == name.strip().lower():
                raise ModelLoadFailed(f"model '{reject.name}' cannot be loaded: {reject.reason}")
        shown = "".join(character for character in name[:200] if character.isprintable())
        known = [spec for spec in (entry.spec for entry in self._catalog.entries) if spec.id.lower() not in models]
        if pullable := resolve_name(name, known, self._without_catch_all()):
            raise ModelNotFound(shown, pull=pullable.id)
        candidates = [*models, *self._aliases, *(spec.id for spec in known)]
        raise ModelNotFound(shown, nearest_names(name, (c for c in candidates if c != "*")))

    def free_bytes(self) -> int:
        """Free space on the disk of the models folder."""
        return self._layout.free_bytes()

    def converted_dir(self, model: InstalledModel, layout: str) -> Path:
        """Where an engine may keep its own copy of `model`; not created. It goes when the model goes.

        `layout` names the engine's format and version. Write to a temporary name beside it and rename.
        """
        if not _LAYOUT_NAME.fullmatch(layout):
            raise ValueError(f"'{layout}' cannot name a layout")
        return self._layout.converted / f"{model.digest}-{layout}"

    def verify(self, model: InstalledModel) -> None:
        """Check every file that has a sha256; one that was found intact before and has not changed is skipped.

        Raises ModelLoadFailed naming the file. Takes about a second for each GB that is hashed.
        """
        self._verifier.verify(model)

    # -- coming and going -------------------------------------------------------------------------------

    def pull(
        self,
        name: str,
        on_progress: Callable[[PullProgress], None],
        cancelled: threading.Event | None = None,
    ) -> InstalledModel:
        """Install `name`, or repair it, from the first mirror that can; the same pull is shared by all callers.

        `on_progress` is called in this thread, at most ten times a second for each file. Setting `cancelled`
        ends this call within a second; the work goes on while others wait for it, and what was downloaded is
        kept. Raises ModelNotFound, InvalidRequest, DownloadFailed, InsufficientStorage, RequestCancelled.
        """
        models, _ = self._index()
        present = models.get(name.strip().lower())
        if present is None or not present.is_placed:
            entry = self._entry(name)
            present = models.get(entry.spec.id.lower())
        if present is not None and (present.is_placed or not self._verifier.damaged(present)):
            on_progress(PullProgress(PullStage.DONE))
            return present

        def work(report: Report, cancellation: Cancellation) -> None:
            placed = {model.digest for model in self.installed() if model.is_placed}
            Pull(entry, self._layout, self._verifier, self._sources, self._limits, placed, report, cancellation).run()

        self._pulls.join(key_of(entry.spec.id), work, on_progress, cancelled)
        return self.find(entry.spec.id)

    def remove(self, name: str) -> InstalledModel:
        """Uninstall a pulled model; its files go when no other name uses them. Returns what it was.

        Raises ModelNotFound, and InvalidRequest for a model that a person placed: it is theirs to remove.
        """
        model = self.find(name)
        if model.is_placed:
            raise InvalidRequest(
                f"model '{model.spec.id}' was placed in the models folder by hand: remove it there", field="model"
            )
        with self._layout.publishing():
            (self._layout.manifests / f"{key_of(model.spec.id)}.json").unlink(missing_ok=True)
            sync_directory(self._layout.manifests)
            used = used_digests(self._layout)
            if used is not None and model.digest not in used:
                self._verifier.forget(model.digest)
                shutil.rmtree(self._layout.artefacts / model.digest, ignore_errors=True)
                drop_converted(self._layout, model.digest)
        return model

    # -- within -----------------------------------------------------------------------------------------

    def _entry(self, name: str) -> CatalogEntry:
        """What `name` would pull: a model of the catalogue, or a repository of the hub."""
        name = name.strip()
        if not is_valid_name(name):
            raise InvalidRequest("invalid model name", field="model")
        for prefix in _REGISTRY_PREFIXES:
            name = name.removeprefix(prefix)
        spec = resolve_name(name, [entry.spec for entry in self._catalog.entries], self._without_catch_all())
        if spec is not None and (entry := self._catalog.get(spec.id)):
            return entry
        if entry := hub_entry(name):
            key_of(name)
            return entry
        if name.count("/") == 2:
            raise InvalidRequest(
                f"models are not pulled from {name.partition('/')[0]}: name one of the catalogue, or "
                f"{HUB_HOSTS[0]}/<owner>/<repository>",
                field="model",
            )
        raise ModelNotFound(name, nearest_names(name, [entry.spec.id for entry in self._catalog.entries]))

    def _without_catch_all(self) -> Mapping[str, str]:
        return {alias: name for alias, name in self._aliases.items() if alias != "*"}

    def _index(self) -> tuple[dict[str, InstalledModel], list[Rejected]]:
        """Installed models by their names in lower case, and what cannot be loaded."""
        models = {model.spec.id.lower(): model for model in map(self._installed, self._manifests.all())}
        seen = self._placed.all()
        models.update({model.spec.id.lower(): model for model in seen if isinstance(model, InstalledModel)})
        rejected = [model for model in seen if isinstance(model, Rejected)]
        return dict(sorted(models.items())), rejected

    def _installed(self, manifest: Manifest) -> InstalledModel:
        directory = self._layout.artefacts / manifest.digest
        return InstalledModel(
            spec=self._spec(manifest),
            directory=directory,
            files=tuple(StoredFile(f.name, directory / f.name, f.size, f.sha256) for f in manifest.files),
            digest=manifest.digest,
            modified_at=manifest.pulled_at,
        )

    def _spec(self, manifest: Manifest) -> ModelSpec:
        """What the catalogue says of the model today, else what the manifest kept."""
        entry = self._catalog.get(manifest.spec.id)
        if entry is None or entry.spec.format is not manifest.spec.format:
            return manifest.spec
        return replace(entry.spec, size_bytes=manifest.spec.size_bytes)


def _lowered(aliases: Mapping[str, str]) -> Mapping[str, str]:
    return {alias.lower(): name for alias, name in aliases.items()}

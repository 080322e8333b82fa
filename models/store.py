"""The models on this machine's disk: what is installed, and how models come and go."""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from domain.errors import DownloadFailed, InvalidRequest, ModelLoadFailed, ModelNotFound
from domain.library import NewModel, PullProgress, PullStage, inherited
from domain.model import ModelSpec
from models.catalog import Catalog, CatalogEntry
from models.installed import InstalledModel, StoredFile
from models.inventory import Inventory
from models.layout import Layout, changes, key_of, sync_directory
from models.manifest import PLACED, Manifest, read_manifest
from models.operator_models import OperatorModels
from models.pull import Pull, PullLimits
from models.shared_pulls import SharedPulls
from models.sources.source import Cancellation, Source
from models.staging import Report
from models.sweep import drop_artefact, sweep, used_digests
from models.verification import Verifier

__all__ = ["InstalledModel", "ModelStore", "PullLimits", "StoredFile"]

_LAYOUT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


class ModelStore:
    """Models on disk: pulled ones, each with a manifest, and those that a person put into `root`.

    Synchronous and thread-safe; several processes may share one `root`. `sources` are named `index`, `hub` and
    `local`; a kind that is missing is not asked. `aliases` are the operator's own, stronger than the catalogue's;
    `operators` is what the operator's file says of models. `catalog` has the models that it adds.
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
        operators: OperatorModels | None = None,
    ) -> None:
        self._layout = Layout(root)
        self._catalog = catalog
        self._sources = sources
        self._limits = limits or PullLimits()
        self._verifier = Verifier(self._layout)
        self._pulls = SharedPulls()
        self._inventory = Inventory(self._layout, catalog, aliases or {}, operators or OperatorModels())

    # -- looking ----------------------------------------------------------------------------------------

    def installed(self) -> Sequence[InstalledModel]:
        """Every model on disk, by name. Where a pulled and a placed model share a name, the placed one counts."""
        return self._inventory.installed()

    def known(self) -> Sequence[CatalogEntry]:
        """Everything that the catalogue lists, installed or not."""
        return self._catalog.entries

    def find(self, name: str) -> InstalledModel:
        """The installed model that `name` means, in any spelling of `domain.model.resolve_name`.

        Raises ModelNotFound with the nearest names or a hint to pull, and ModelLoadFailed with the reason for
        something in the models folder that has this name and cannot be loaded.
        """
        return self._inventory.find(name)

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
        if model.lost:
            raise ModelLoadFailed(
                f"model '{model.spec.id}' cannot be loaded: {model.lost}, or delete '{model.spec.id}'"
            )
        self._verifier.verify(model)

    def sweep(self) -> None:
        """Remove what crashes left behind and nobody wants any more; what somebody pulls just now is left alone.

        Raises ModelsFolderUnusable. A folder that holds nothing of ours yet is not touched.
        """
        if self._layout.is_in_use():
            with changes():
                sweep(self._layout, self._placed_digests())

    # -- coming and going -------------------------------------------------------------------------------

    def pull(
        self,
        name: str,
        on_progress: Callable[[PullProgress], None],
        cancelled: threading.Event | None = None,
        *,
        afresh: bool = False,
    ) -> InstalledModel:
        """Install `name`, or repair it, from the first mirror that can; the same pull is shared by all callers.

        `on_progress` is called in this thread, at most ten times a second for each file. Setting `cancelled`
        ends this call within a second; the work goes on while others wait for it, and what was downloaded is
        kept. A file that was found intact before is believed to be so while its size and times do not change;
        `afresh` hashes all of them again. Raises ModelNotFound, InvalidRequest, DownloadFailed,
        InsufficientStorage, RequestCancelled.
        """
        present = self._inventory.get(name)
        if present is not None and present.made_from is not None:
            if afresh:
                self._verifier.forget(present.digest)
            return self._repair(present, present.made_from, on_progress, cancelled)
        if present is None or not present.is_placed:
            entry = self._inventory.entry(name)
            present = self._inventory.get(entry.spec.id)
            if present is not None and afresh:
                self._verifier.forget(present.digest)
        if present is not None and (present.is_placed or not self._verifier.damaged(present)):
            on_progress(PullProgress(PullStage.DONE))
            return present

        def work(report: Report, cancellation: Cancellation) -> None:
            placed = self._placed_digests()
            Pull(entry, self._layout, self._verifier, self._sources, self._limits, placed, report, cancellation).run()

        self._pulls.join(key_of(entry.spec.id), work, on_progress, cancelled)
        return self._inventory.find(entry.spec.id)

    def remove(self, name: str) -> InstalledModel:
        """Uninstall a model; its files go when no other name uses them. Returns what it was.

        Raises ModelNotFound, and InvalidRequest for a model that a person placed: it is theirs to remove.
        """
        model = self._inventory.find(name, catch_all=False)
        if model.is_placed:
            is_here = model.directory.is_relative_to(self._layout.root)
            where = "was placed in the models folder by hand" if is_here else "lies where models.toml says"
            raise InvalidRequest(f"model '{model.spec.id}' {where}: remove it there", field="model")
        with changes(), self._layout.publishing():
            (self._layout.manifests / f"{key_of(model.spec.id)}.json").unlink(missing_ok=True)
            sync_directory(self._layout.manifests)
            used = used_digests(self._layout)
            if used is not None and model.digest not in used | self._placed_digests():
                self._verifier.forget(model.digest)
                drop_artefact(self._layout, model.digest)
        return model

    def copy(self, source: str, destination: str) -> InstalledModel:
        """Give the model `source` a second name; the files are shared.

        Raises ModelNotFound, InvalidRequest, ModelExists, ModelLoadFailed where files are missing,
        InsufficientStorage, ModelsFolderUnusable.
        """
        base = self._inventory.find(source, catch_all=False)
        return self._make(base, replace(base.spec, id=destination.strip(), hub_id=None))

    def create(self, wish: NewModel) -> InstalledModel:
        """Make a model with a preset of its own out of the files of another. Raises as `copy` does."""
        base = self._inventory.find(wish.base, catch_all=False)
        name = wish.name.strip()
        spec = replace(
            base.spec,
            id=name,
            title=name,
            hub_id=None,
            preset=inherited(wish.preset, base.spec),
            licence=wish.licence or base.spec.licence,
        )
        return self._make(base, spec)

    # -- within -----------------------------------------------------------------------------------------

    def _placed_digests(self) -> set[str]:
        """Of models whose files are persons': engines may keep copies of these."""
        return {model.digest for model in self.installed() if model.is_placed}

    def _make(self, base: InstalledModel, spec: ModelSpec) -> InstalledModel:
        key = key_of(spec.id)
        with changes(), self._layout.publishing():
            self._inventory.refuse_taken(spec.id)
            made = self._made_of(base, spec)
            replaced = read_manifest(self._layout, key)
            made.write(self._layout.manifests / f"{key}.json")
            used = used_digests(self._layout)
            if replaced is not None and used is not None and replaced.artefact not in used:
                self._verifier.forget(replaced.artefact)
                drop_artefact(self._layout, replaced.artefact)
        return self._inventory.find(spec.id)

    def _made_of(self, base: InstalledModel, spec: ModelSpec) -> Manifest:
        """The manifest of `spec` over the files of `base`, which must be there and whole."""
        if base.lost:
            raise ModelLoadFailed(f"'{base.spec.id}' cannot be the base of another model: {base.lost}")
        origin = None if base.is_placed else read_manifest(self._layout, key_of(base.spec.id))
        if base.is_placed or (origin is not None and origin.is_of_placed):
            return Manifest(spec, (), {"source": PLACED, "made_from": base.made_from or base.spec.id})
        if origin is None or origin.artefact != base.digest:
            raise ModelNotFound(base.spec.id)
        for file in base.files:
            if not file.path.is_file() or file.path.stat().st_size != file.size:
                again = f"run `ingle models pull {base.made_from or base.spec.id}` again"
                raise ModelLoadFailed(f"{file.name} of '{base.spec.id}' is damaged: {again}", file=file.name)
        return Manifest(spec, origin.files, {**origin.origin, "made_from": base.made_from or base.spec.id})

    def _repair(
        self,
        model: InstalledModel,
        made_from: str,
        on_progress: Callable[[PullProgress], None],
        cancelled: threading.Event | None,
    ) -> InstalledModel:
        """Make the files of a made model whole, if they are not, by pulling the model that they came with."""

        def told(progress: PullProgress) -> None:
            if progress.stage is not PullStage.DONE:
                on_progress(progress)

        if model.lost:
            raise DownloadFailed(f"'{model.spec.id}' cannot be repaired: {model.lost}")
        if self._verifier.damaged(model):
            self.pull(made_from, told, cancelled)
            if self._verifier.damaged(model):
                raise DownloadFailed(
                    f"'{model.spec.id}' is damaged, and '{made_from}' has other files today: make it anew"
                )
        on_progress(PullProgress(PullStage.DONE))
        return model

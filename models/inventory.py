"""What is installed, and what a name means: the index of the models folder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from domain.errors import InvalidRequest, ModelExists, ModelLoadFailed, ModelNotFound
from domain.model import ModelSpec, is_valid_name, nearest_names, resolve_name
from models.catalog import HUB_HOSTS, Catalog, CatalogEntry, hub_entry
from models.installed import InstalledModel, StoredFile
from models.layout import Layout, key_of
from models.manifest import Manifest, Manifests
from models.operator_models import OperatorModels
from models.placed import PlacedModels, Rejected

_REGISTRY_PREFIXES = ("registry.ollama.ai/library/", "library/")
_LATEST = ":latest"

# What lies in the models folder, and the index of it: made anew only when something there has changed.
_Indexed = tuple[Sequence[InstalledModel | Rejected], Sequence[Manifest], dict[str, InstalledModel], list[Rejected]]


class Inventory:
    """Reads manifests and placed models; changes nothing."""

    def __init__(self, layout: Layout, catalog: Catalog, aliases: Mapping[str, str], operators: OperatorModels) -> None:
        self._layout = layout
        self._catalog = catalog
        self._operators = operators
        self._aliases = {**_lowered(catalog.aliases), **operators.aliases, **_lowered(aliases)}
        self._own_aliases = {alias: name for alias, name in self._aliases.items() if alias != "*"}
        self._placed = PlacedModels(layout.root, operators.elsewhere)
        self._manifests = Manifests(layout)
        self._indexed: _Indexed | None = None

    def installed(self) -> Sequence[InstalledModel]:
        """Every model on disk, by name. Where a pulled and a placed model share a name, the placed one counts."""
        return list(self._index()[0].values())

    def get(self, model_id: str) -> InstalledModel | None:
        """The installed model of exactly this name, without regard to case."""
        return self._index()[0].get(model_id.strip().lower())

    def find(self, name: str, *, catch_all: bool = True) -> InstalledModel:
        """The installed model that `name` means; see ModelStore.find. `catch_all` False leaves out the alias `*`."""
        models, rejected = self._index()
        aliases = self._aliases if catch_all else self._own_aliases
        if found := resolve_name(name, [model.spec for model in models.values()], aliases):
            return models[found.id.lower()]
        for reject in rejected:
            if reject.name.lower() == name.strip().lower():
                raise ModelLoadFailed(f"model '{reject.name}' cannot be loaded: {reject.reason}")
        shown = "".join(character for character in name[:200] if character.isprintable())
        known = [spec for spec in (entry.spec for entry in self._catalog.entries) if spec.id.lower() not in models]
        if pullable := resolve_name(name, known, self._own_aliases):
            raise ModelNotFound(shown, pull=pullable.id)
        candidates = [*models, *self._own_aliases, *(spec.id for spec in known)]
        raise ModelNotFound(shown, nearest_names(name, candidates))

    def entry(self, name: str) -> CatalogEntry:
        """What `name` would pull: a model of the catalogue, or a repository of the hub.

        Raises InvalidRequest, and ModelNotFound with the nearest names.
        """
        name = name.strip()
        if not is_valid_name(name):
            raise InvalidRequest("invalid model name", field="model")
        given, has_registry = name, name.count("/") == 2
        for prefix in _REGISTRY_PREFIXES:
            name = name.removeprefix(prefix)
        spec = resolve_name(name, [entry.spec for entry in self._catalog.entries], self._own_aliases)
        if spec is not None and (entry := self._catalog.get(spec.id)):
            return entry
        if entry := hub_entry(name):
            key_of(name)
            return entry
        if has_registry:
            raise InvalidRequest(
                f"models are not pulled from {given.partition('/')[0]}: name one of the catalogue, or "
                f"{HUB_HOSTS[0]}/<owner>/<repository>",
                field="model",
            )
        raise ModelNotFound(name, nearest_names(name, [entry.spec.id for entry in self._catalog.entries]))

    def refuse_taken(self, name: str) -> None:
        """Raise ModelExists where `name` means something already, unless that is a model made from another."""
        plain = name.lower().removesuffix(_LATEST)
        models = self._index()[0]
        for spelling in (plain, plain + _LATEST):
            present = models.get(spelling)
            if present is not None and (present.is_placed or present.made_from is None):
                raise ModelExists(f"'{name}' is the name of an installed model")
            if self._catalog.get(spelling) is not None or spelling in self._own_aliases:
                raise ModelExists(f"'{name}' is the name of a model of the catalogue, or an alias")
        if plain.partition("/")[0] in HUB_HOSTS or any(plain.startswith(prefix) for prefix in _REGISTRY_PREFIXES):
            raise ModelExists(f"'{name}' is a name of another registry")

    def _index(self) -> tuple[dict[str, InstalledModel], list[Rejected]]:
        """Installed models by their names in lower case, and what cannot be loaded."""
        seen, manifests = self._placed.all(), self._manifests.all()
        if self._indexed is None or self._indexed[:2] != (seen, manifests):
            self._indexed = seen, manifests, *self._joined(seen, manifests)
        return self._indexed[2:]

    def _joined(
        self, seen: Sequence[InstalledModel | Rejected], manifests: Sequence[Manifest]
    ) -> tuple[dict[str, InstalledModel], list[Rejected]]:
        placed = {model.spec.id.lower(): model for model in seen if isinstance(model, InstalledModel)}
        models = {model.spec.id.lower(): model for model in (self._installed(found, placed) for found in manifests)}
        models.update({name: self._as_wanted(model) for name, model in placed.items()})
        return dict(sorted(models.items())), [model for model in seen if isinstance(model, Rejected)]

    def _installed(self, manifest: Manifest, placed: Mapping[str, InstalledModel]) -> InstalledModel:
        if manifest.is_of_placed:
            return self._as_wanted(_of_placed(manifest, placed.get(str(manifest.made_from).lower())))
        directory = self._layout.artefacts / manifest.artefact
        return self._as_wanted(
            InstalledModel(
                spec=replace(self._spec(manifest), digest=manifest.digest, modified_at=manifest.pulled_at),
                directory=directory,
                files=tuple(StoredFile(f.name, directory / f.name, f.size, f.sha256) for f in manifest.files),
                digest=manifest.artefact,
                modified_at=manifest.pulled_at,
                made_from=manifest.made_from,
            )
        )

    def _spec(self, manifest: Manifest) -> ModelSpec:
        """What the catalogue says of the model, or of the one it was made from, today; else what the manifest kept."""
        kept = manifest.spec
        entry = self._catalog.get(manifest.made_from or kept.id)
        if entry is None or entry.is_made_up or entry.spec.format is not kept.format:
            return kept
        if manifest.made_from is None:
            return replace(entry.spec, size_bytes=kept.size_bytes)
        return replace(
            entry.spec,
            id=kept.id,
            title=kept.title,
            licence=kept.licence,
            hub_id=None,
            size_bytes=kept.size_bytes,
            preset=kept.preset,
        )

    def _as_wanted(self, model: InstalledModel) -> InstalledModel:
        """`model` with what the operator's file says of it, or of the one that it was made from."""
        spec = self._operators.applied_to(model.spec, model.made_from)
        return model if spec is model.spec else replace(model, spec=spec)


def _of_placed(manifest: Manifest, base: InstalledModel | None) -> InstalledModel:
    """A model made from one that a person placed: that one's files as they are today, under another name."""
    kept = manifest.spec
    if base is None:
        lost = f"'{manifest.made_from}', which it was made from, is no longer in the models folder: put it back there"
        spec = replace(kept, digest=manifest.digest, modified_at=manifest.pulled_at)
        return InstalledModel(spec, Path(), (), manifest.artefact, made_from=manifest.made_from, lost=lost)
    spec = replace(
        base.spec,
        id=kept.id,
        title=kept.title,
        licence=kept.licence,
        hub_id=None,
        preset=kept.preset,
        digest=manifest.digest_over(base.digest),
        modified_at=manifest.pulled_at,
    )
    return replace(base, spec=spec, modified_at=manifest.pulled_at, is_placed=False, made_from=manifest.made_from)


def _lowered(aliases: Mapping[str, str]) -> Mapping[str, str]:
    return {alias.lower(): name for alias, name in aliases.items()}

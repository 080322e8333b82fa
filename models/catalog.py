"""The models that can be pulled by name: `catalog.toml`, read and checked.

A model has one or more artefacts, in order of preference: sets of files that belong together and are never
mixed. An artefact has mirrors, the places that its bytes can come from. `files` pins the bytes of an artefact
whatever the mirror; an artefact without pinned files is what the hub has at `revision`. A table `load` says how the
model runs best, in the words of `domain.model.LoadOptions`, where nobody says otherwise.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from domain.errors import InvalidRequest
from domain.model import LoadOptions, ModelSpec, Residence, Task, WeightFormat, is_valid_name

HUB_HOSTS = ("hf.co", "huggingface.co")
MAX_FILE_BYTES = 1 << 40

_SHA256 = re.compile(r"[0-9a-f]{64}")
_REVISION = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
_PLAIN_SUFFIXES = (".safetensors", ".gguf", ".json", ".txt", ".jinja")
# A large model as some publish it: `x-00001-of-00003.gguf`.
PART_OF_GGUF = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
SPLIT_ADVICE = "take one with a single file, join the parts with llama-gguf-split --merge, or take the safetensors"


def is_model_file(name: str) -> bool:
    """Whether `name` may be fetched into a model's directory and opened there.

    Only formats that cannot carry code: safetensors, GGUF, CTranslate2's `model.bin`, JSON, text, chat
    templates (which are run in a sandbox). At most one folder deep, as in `1_Pooling/config.json`.
    """
    parts = name.split("/")
    if len(parts) > 2 or not all(_PLAIN_NAME.fullmatch(part) for part in parts):
        return False
    return parts[-1] == "model.bin" or parts[-1].endswith(_PLAIN_SUFFIXES)


@dataclass(frozen=True, slots=True)
class CatalogFile:
    """A file whose bytes are known beforehand. `size` in bytes, `sha256` in lower-case hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class WheelMember:
    """A member of a wheel: a whole file of the artefact or, in the wheels' order, the next piece of it."""

    of: str
    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel of the package index that is used as a box of data."""

    package: str
    version: str
    size: int
    members: tuple[WheelMember, ...]


@dataclass(frozen=True, slots=True)
class IndexMirror:
    """A Python package index, which has the artefact in these wheels."""

    wheels: tuple[Wheel, ...]


@dataclass(frozen=True, slots=True)
class HubMirror:
    """A repository of a model hub. `file` chooses one GGUF file by its name or quantisation.

    `revision` is a commit; None means whatever the hub calls `main` when it is asked.
    """

    repository: str
    revision: str | None = None
    file: str | None = None


@dataclass(frozen=True, slots=True)
class LocalMirror:
    """A folder of files named as in the catalogue, below the directory that the local source was given."""

    folder: str


Mirror = IndexMirror | HubMirror | LocalMirror


@dataclass(frozen=True, slots=True)
class Artefact:
    """Files that belong together, and where to get them."""

    files: tuple[CatalogFile, ...]
    mirrors: tuple[Mirror, ...]


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model that can be pulled. `spec.size_bytes` is 0 where only the hub knows it.

    `is_made_up` means that nothing is known of the model yet: `spec` is read off its files once they are here.
    """

    spec: ModelSpec
    aliases: tuple[str, ...]
    artefacts: tuple[Artefact, ...]
    is_made_up: bool = False


@dataclass(frozen=True, slots=True)
class Catalog:
    """Every model that has a name of its own here."""

    entries: Sequence[CatalogEntry]
    _by_id: Mapping[str, CatalogEntry] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_id", {entry.spec.id.lower(): entry for entry in self.entries})

    @classmethod
    def load(cls, path: Path | None = None) -> "Catalog":
        """Read `path`, or the catalogue that comes with Ingle. Raises ValueError saying what is wrong where."""
        document = tomllib.loads((path or Path(__file__).with_name("catalog.toml")).read_text(encoding="utf-8"))
        return cls.parse(document)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "Catalog":
        """The catalogue in a parsed TOML `document`. Raises ValueError."""
        entries = tuple(_entry(table) for table in document.get("model", ()))
        _refuse_double_names(entries)
        return cls(entries)

    def get(self, model_id: str) -> CatalogEntry | None:
        """The entry with exactly this name, without regard to case."""
        return self._by_id.get(model_id.lower())

    @property
    def aliases(self) -> Mapping[str, str]:
        """Other names of the models, each with the model's own."""
        return {alias: entry.spec.id for entry in self.entries for alias in entry.aliases}


def hub_entry(name: str) -> CatalogEntry | None:
    """An entry made up for `hf.co/<owner>/<repository>[:<file or quantisation>]`; None for another name.

    Anybody can put files there, so only formats without code are fetched and the files say what they are.
    """
    host, _, rest = name.partition("/")
    repository, _, tag = rest.partition(":")
    if host.lower() not in HUB_HOSTS or not _REPOSITORY.fullmatch(repository):
        return None
    kind = WeightFormat.GGUF if tag else WeightFormat.SAFETENSORS
    spec = ModelSpec(name, repository, Task.TEXT, kind, hub_id=repository)
    mirror = HubMirror(repository, None, tag or None)
    return CatalogEntry(spec, (), (Artefact((), (mirror,)),), is_made_up=True)


def pinned(entry: CatalogEntry, revision: str) -> CatalogEntry:
    """`entry` with its hub repository at the commit `revision`; empty leaves it open. Raises ValueError."""
    if not revision:
        return entry
    _require(bool(_REVISION.fullmatch(revision)), "must be a commit, 40 hex digits")
    mirrors = tuple(
        replace(mirror, revision=revision) if isinstance(mirror, HubMirror) else mirror
        for mirror in entry.artefacts[0].mirrors
    )
    return replace(entry, artefacts=(replace(entry.artefacts[0], mirrors=mirrors),))


# -- reading ------------------------------------------------------------------------------------------


def _entry(table: Mapping[str, Any]) -> CatalogEntry:
    name = str(table.get("name"))
    try:
        _require(is_valid_name(name), f"'{name}' is not a model name")
        artefacts = tuple(_artefact(part) for part in table["artefact"])
        _require(bool(artefacts), "there is no artefact")
        spec = ModelSpec(
            id=name,
            title=table["title"],
            task=Task(table["task"]),
            format=WeightFormat(table["format"]),
            family=table.get("family", ""),
            context_length=table.get("context_length", 0),
            size_bytes=sum(file.size for file in artefacts[0].files),
            parameters=table.get("parameters", 0),
            licence=table["licence"],
            hub_id=table.get("hub_id"),
            capabilities=tuple(table["capabilities"]),
            residence=Residence(LoadOptions(**table.get("load", {}))),
        )
        return CatalogEntry(spec, tuple(table.get("aliases", ())), artefacts)
    except (KeyError, TypeError, ValueError, InvalidRequest) as error:
        raise ValueError(f"catalogue, model '{name}': {error}") from error


def _artefact(table: Mapping[str, Any]) -> Artefact:
    files = tuple(CatalogFile(**file) for file in table.get("files", ()))
    for file in files:
        _require(is_model_file(file.name), f"'{file.name}' is not a file of a model")
        _check_bytes(file.size, file.sha256, file.name)
    mirrors: list[Mirror] = []
    if "wheel" in table:
        mirrors.append(IndexMirror(_wheels(table["wheel"], files)))
    if "hub" in table:
        mirrors.append(_hub(**table["hub"]))
    _require(bool(mirrors), "an artefact has neither wheels nor a hub repository")
    return Artefact(files, tuple(mirrors))


def _wheels(tables: Iterable[Mapping[str, Any]], files: Sequence[CatalogFile]) -> tuple[Wheel, ...]:
    wheels = tuple(
        Wheel(t["package"], t["version"], t["size"], tuple(WheelMember(**m) for m in t["members"])) for t in tables
    )
    pieces: dict[str, int] = {file.name: 0 for file in files}
    for wheel in wheels:
        for member in wheel.members:
            _check_bytes(member.size, member.sha256, member.path)
            _require(member.of in pieces, f"'{member.of}' is in a wheel and not among the files")
            pieces[member.of] += member.size
    for file in files:
        _require(pieces[file.name] == file.size, f"the wheels' pieces of '{file.name}' do not add up to its size")
    return wheels


def _hub(repository: str, revision: str | None = None, file: str | None = None) -> HubMirror:
    _require(bool(_REPOSITORY.fullmatch(repository)), f"'{repository}' is not a repository")
    _require(revision is None or bool(_REVISION.fullmatch(revision)), f"'{revision}' is not a commit")
    return HubMirror(repository, revision, file)


def _check_bytes(size: int, sha256: str, name: str) -> None:
    _require(0 < size <= MAX_FILE_BYTES, f"the size of '{name}' is out of range")
    _require(bool(_SHA256.fullmatch(sha256)), f"the sha256 of '{name}' is not one")


def _refuse_double_names(entries: Iterable[CatalogEntry]) -> None:
    seen: set[str] = set()
    for entry in entries:
        for name in (entry.spec.id, *entry.aliases):
            _require(name.lower() not in seen, f"catalogue: the name '{name}' is given twice")
            seen.add(name.lower())


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)

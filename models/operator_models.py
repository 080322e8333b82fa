"""What the operator says of models in `models.toml`: further ones, and how those that there are are wanted.

[[model]]
name = "coder:big"
source = "hf.co/Qwen/Qwen2.5-Coder-7B-Instruct-GGUF:q4_k_m"
context_length = 16384
keep_alive = "1h"

A table with `source` adds a model that can be pulled, one with `path` a model that lies elsewhere on this machine;
one with neither speaks of a model that is known by other means. `[[provider]]` tables are kept as they stand, for
whoever passes requests on to other servers.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from domain.errors import InvalidRequest
from domain.keep_alive import parse_keep_alive
from domain.model import LoadOptions, ModelSpec, Residence, is_valid_name
from domain.preset import Preset
from models.catalog import Catalog, CatalogEntry, hub_entry, pinned
from models.preset_parameters import checked_parameters

_MAX_BYTES = 1 << 20
_KEYS = (
    *("name", "source", "revision", "path", "title", "aliases"),
    *("device", "dtype", "quantization", "context_length", "num_parallel", "threads"),
    *("keep_alive", "pinned", "preload"),
    *("system", "template", "parameters"),
)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Wish:
    """What one table says beside where the model comes from."""

    title: str
    residence: Residence
    preset: Preset


@dataclass(frozen=True, slots=True)
class OperatorModels:
    """A models.toml that was read and checked. Names are in lower case in `elsewhere` and `aliases`."""

    entries: tuple[CatalogEntry, ...] = ()
    elsewhere: Mapping[str, Path] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    providers: tuple[Mapping[str, Any], ...] = ()
    _wishes: Mapping[str, _Wish] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "OperatorModels":
        """Read the file at `path`. Raises ValueError naming the table and the key, and OSError."""
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"{path.name} has more than {_MAX_BYTES} bytes")
        try:
            return cls.parse(tomllib.loads(content.decode()))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path.name}: {error}") from error

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "OperatorModels":
        """What a parsed document says. Raises ValueError naming the table and the key."""
        if strange := sorted(document.keys() - {"model", "provider"}):
            raise ValueError(f"'{strange[0]}' is not known here: write [[model]] or [[provider]]")
        tables = [_Table(table) for table in _tables(document, "model")]
        names = [name for table in tables for name in (table.name, *table.aliases)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"the name '{twice}' is given twice")
        return cls(
            entries=tuple(entry for table in tables if (entry := table.entry()) is not None),
            elsewhere={table.name: path for table in tables if (path := table.path()) is not None},
            aliases={alias: table.name for table in tables for alias in table.aliases},
            providers=tuple(_tables(document, "provider")),
            _wishes={table.name: table.wish() for table in tables},
        )

    def over(self, catalog: Catalog) -> Catalog:
        """`catalog` with the models that are added here; one of the same name is replaced."""
        own = {entry.spec.id.lower() for entry in self.entries}
        kept = [entry for entry in catalog.entries if entry.spec.id.lower() not in own]
        return Catalog((*kept, *self.entries))

    def applied_to(self, spec: ModelSpec, made_from: str | None = None) -> ModelSpec:
        """`spec` as the operator wants it. A model made from another is wanted in memory as that one is."""
        wish = self._wishes.get(spec.id.lower())
        if wish is None:
            inherited = self._wishes.get(made_from.lower()) if made_from else None
            return spec if inherited is None else replace(spec, residence=inherited.residence.over(spec.residence))
        preset = Preset(
            system=spec.preset.system if wish.preset.system is None else wish.preset.system,
            parameters=tuple(sorted({**dict(spec.preset.parameters), **dict(wish.preset.parameters)}.items())),
            messages=spec.preset.messages,
            template=wish.preset.template or spec.preset.template,
            parent=spec.preset.parent,
        )
        return replace(
            spec, title=wish.title or spec.title, residence=wish.residence.over(spec.residence), preset=preset
        )


class _Table:
    """One [[model]] table; every key is taken once, and what is left over is an error."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._table = table
        name = table.get("name")
        if not isinstance(name, str) or not is_valid_name(name):
            raise ValueError(f"model '{str(name)[:80]}': name must be a model's name, such as coder:7b")
        self.name = name.lower()
        if strange := sorted(table.keys() - set(_KEYS)):
            raise self._wrong(strange[0], f"is not known; known are {', '.join(_KEYS)}")
        self.aliases = tuple(alias.lower() for alias in self._texts("aliases"))
        for alias in self.aliases:
            if not is_valid_name(alias):
                raise self._wrong("aliases", f"'{alias[:80]}' is not a name")
        if "source" in table and "path" in table:
            raise self._wrong("path", "a model has a source or a path, not both")

    def entry(self) -> CatalogEntry | None:
        """What `source` adds to the catalogue."""
        source, revision = self._text("source"), self._text("revision")
        if not source:
            if revision:
                raise self._wrong("revision", "needs a source")
            return None
        found = hub_entry(source)
        if found is None:
            raise self._wrong("source", "must be hf.co/<owner>/<repository> or hf.co/<owner>/<repository>:<file>")
        spec = replace(found.spec, id=self._table["name"], title=self._text("title") or found.spec.title)
        try:
            return pinned(replace(found, spec=spec), revision)
        except ValueError as error:
            raise self._wrong("revision", str(error)) from None

    def path(self) -> Path | None:
        """Where the model lies."""
        text = self._text("path")
        if not text:
            return None
        path = Path(text).expanduser()
        if not path.is_absolute():
            raise self._wrong("path", "must begin with / or ~")
        return path

    def wish(self) -> _Wish:
        """All the rest."""
        return _Wish(self._text("title"), self._residence(), self._preset())

    def _residence(self) -> Residence:
        try:
            options = LoadOptions(
                device=self._text("device") or "auto",
                dtype=self._text("dtype") or "auto",
                quantization=self._text("quantization") or "auto",
                num_ctx=self._integer("context_length"),
                num_parallel=self._integer("num_parallel"),
                threads=self._integer("threads"),
            )
        except InvalidRequest as error:
            raise self._wrong({"num_ctx": "context_length"}.get(error.field or "", error.field or ""), error) from None
        return Residence(options, self._keep_alive(), self._flag("pinned"), self._flag("preload"))

    def _keep_alive(self) -> float | None:
        if "keep_alive" not in self._table:
            return None
        try:
            return parse_keep_alive(self._table["keep_alive"])
        except InvalidRequest as error:
            raise self._wrong("keep_alive", str(error).removeprefix("keep_alive: ")) from None

    def _preset(self) -> Preset:
        system = self._text("system") if "system" in self._table else None
        table = self._table.get("parameters", {})
        if not isinstance(table, dict):
            raise self._wrong("parameters", "must be a table")
        try:
            parameters = checked_parameters(table)
        except InvalidRequest as error:
            raise self._wrong("parameters", error) from None
        return Preset(system=system, parameters=parameters, template=self._text("template"))

    def _text(self, key: str) -> str:
        return self._typed(key, str, "", "a text")

    def _flag(self, key: str) -> bool:
        return self._typed(key, bool, False, "true or false")

    def _integer(self, key: str) -> int:
        value = self._typed(key, int, 0, "a whole number")
        if isinstance(value, bool):
            raise self._wrong(key, "must be a whole number")
        return value

    def _texts(self, key: str) -> Sequence[str]:
        value: list[object] = self._typed(key, list, [], "a list of texts")
        texts = [text for text in value if isinstance(text, str)]
        if len(texts) != len(value):
            raise self._wrong(key, "must be a list of texts")
        return texts

    def _typed(self, key: str, kind: type[_T], default: _T, called: str) -> _T:
        value = self._table.get(key, default)
        if not isinstance(value, kind):
            raise self._wrong(key, f"must be {called}")
        return value

    def _wrong(self, key: str, reason: object) -> ValueError:
        return ValueError(f"model '{self._table['name']}', {key}: {reason}")


def _tables(document: Mapping[str, Any], kind: str) -> Sequence[Mapping[str, Any]]:
    tables = document.get(kind, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError(f"'{kind}' must be written as [[{kind}]]")
    return tables

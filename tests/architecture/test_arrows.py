"""The import contracts of pyproject.toml hold, and each of them fails when it is broken on purpose in a copy."""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
ROOMS = ("domain", "application", "models", "infrastructure", "api", "ingle")

# (contract, what is written into which file). A file that exists gets the text at its end.
BREAKS: list[tuple[str, Mapping[str, str]]] = [
    ("rooms", {"domain/broken.py": "import application.events"}),
    ("rooms", {"application/broken.py": "import models"}),
    ("rooms", {"application/broken.py": "import infrastructure.log"}),
    ("rooms", {"api/broken.py": "import infrastructure.clock"}),
    ("rooms", {"api/broken.py": "import models.device"}),
    ("rooms", {"models/broken.py": "import api"}),
    ("rooms", {"models/broken.py": "import infrastructure.clock"}),
    ("rooms", {"infrastructure/broken.py": "import models"}),
    ("rooms", {"infrastructure/broken.py": "import api"}),
    ("rooms", {"models/broken.py": "def load():\n    import ingle"}),
    ("dialects", {"api/native/broken.py": "import api.openai.broken", "api/openai/broken.py": ""}),
    ("engines", {"models/text/broken.py": "import models.speech"}),
    ("engines", {"models/speech/broken.py": "import models.embedding.broken", "models/embedding/broken.py": ""}),
    ("tensor-free", {"models/text/scheduler.py": "import torch"}),
    ("tensor-free", {"models/text/sequence.py": "import models.text.broken", "models/text/broken.py": "import numpy"}),
    ("tensor-free", {"models/text/block_manager.py": "def size():\n    import torch"}),
    ("settings", {"application/broken.py": "def read():\n    from ingle.settings import Settings"}),
    ("settings-library", {"api/broken.py": "import pydantic_settings"}),
    ("settings-library", {"models/broken.py": "import dotenv"}),
    ("web", {"models/broken.py": "import pydantic"}),
    ("web", {"application/broken.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import fastapi"}),
    ("weights", {"api/broken.py": "import torch"}),
    ("weights", {"application/broken.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numpy"}),
    ("weights-in-ingle", {"ingle/broken.py": "def run():\n    import ctranslate2"}),
    ("database", {"infrastructure/broken.py": "import sqlalchemy"}),
    ("database", {"ingle/broken.py": "import sqlalchemy"}),
    ("celery", {"ingle/broken.py": "def run():\n    from celery import Celery"}),
    ("celery", {"infrastructure/broken.py": "import redis"}),
    ("pure-domain", {"domain/broken.py": "import asyncio"}),
    ("pure-domain", {"domain/broken.py": "def now():\n    import time"}),
    ("no-cycles", {"domain/broken.py": "import domain.other", "domain/other.py": "import domain.broken"}),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The six rooms and their contracts, where they may be broken."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copy(ROOT / "pyproject.toml", root)
    for room in ROOMS:
        shutil.copytree(
            ROOT / room, root / room, ignore=lambda folder, names: [n for n in names if not _is_code(folder, n)]
        )
    return root


def _is_code(folder: str, name: str) -> bool:
    return name.endswith(".py") or ((Path(folder) / name).is_dir() and name != "__pycache__")


@contextmanager
def written(root: Path, files: Mapping[str, str]) -> Iterator[None]:
    """`files` in `root` while the block runs; packages that they need are made."""
    made: list[Path] = []
    before: dict[Path, str] = {}
    for name, text in files.items():
        path = root / name
        for needed in (path.parent / "__init__.py", path):
            needed.parent.mkdir(parents=True, exist_ok=True)
            if needed.exists():
                before.setdefault(needed, needed.read_text(encoding="utf-8"))
            else:
                made.append(needed)
                needed.touch()
        path.write_text(path.read_text(encoding="utf-8") + f"\n{text}\n", encoding="utf-8")
    yield
    for path in made:
        path.unlink()
    for path, text in before.items():
        path.write_text(text, encoding="utf-8")


def lint(root: Path, *contracts: str) -> subprocess.CompletedProcess[str]:
    """What lint-imports says of the rooms in `root`; the working directory comes first on its path."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    command += [word for contract in contracts for word in ("--contract", contract)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)


def test_every_contract_holds(copy: Path) -> None:
    result = lint(copy)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("contract", "files"), BREAKS, ids=[f"{name}: {'+'.join(files)}" for name, files in BREAKS])
def test_a_broken_contract_is_found(contract: str, files: Mapping[str, str], copy: Path) -> None:
    with written(copy, files):
        result = lint(copy, contract)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "0 kept, 1 broken" in result.stdout


def test_persistence_may_use_the_database_library(copy: Path) -> None:
    with written(copy, {"infrastructure/persistence/engine.py": "import sqlalchemy"}):
        result = lint(copy, "database")
    assert result.returncode == 0, result.stdout


def test_every_contract_is_broken_once_here() -> None:
    assert {contract["id"] for contract in CONTRACTS} == {contract for contract, _ in BREAKS}

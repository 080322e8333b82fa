"""Which folders there are, what may be imported in the innermost, and who may look at the environment."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("domain", "application", "models", "infrastructure", "api", "ingle")
BESIDE = ("tests", "benchmarks")
SAYS_NOTHING = {"utils", "util", "helpers", "helper", "common", "base", "core", "manager", "misc", "shared"}


def modules(*rooms: str) -> Iterator[Path]:
    for room in rooms:
        yield from sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level names of everything that `path` imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module.partition(".")[0])
    return names


def test_no_new_top_level_package_appeared() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    with_code = {name for name in folders if any((ROOT / name).rglob("*.py"))} - {"build", "dist"}
    assert with_code <= {*ROOMS, *BESIDE}, "a new room needs a decision record"
    assert set(ROOMS) <= with_code
    # What hatchling runs when Ingle is installed must lie beside pyproject.toml.
    assert [path.name for path in ROOT.glob("*.py")] == ["hatch_build.py"]


@pytest.mark.parametrize("room", ["domain", "application"])
def test_the_inner_rooms_need_nothing_but_the_standard_library(room: str) -> None:
    allowed = sys.stdlib_module_names | set(ROOMS)
    assert {str(path): names - allowed for path in modules(room) if (names := imported(path)) - allowed} == {}


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [path for path in modules(*ROOMS) if {path.stem, path.parent.name} & SAYS_NOTHING] == []


def test_only_ingle_looks_at_the_environment() -> None:
    outside = [room for room in ROOMS if room != "ingle"]
    assert [str(path.relative_to(ROOT)) for path in modules(*outside) if _reads_environment(path)] == []


def _reads_environment(path: Path) -> bool:
    """Whether `path` uses os.environ, os.getenv or their like; handing a child an environment is not reading."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    return bool(names & {"environ", "environb", "getenv", "getenvb"})

"""What is declared, pinned, documented, and what ends up in the wheel."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("domain", "application", "models", "infrastructure", "api", "ingle")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def name_of(requirement: str) -> str:
    return re.split(r"[\[=<>~! ;]", requirement)[0].lower().replace("_", "-")


RUNTIME = {name_of(requirement) for requirement in PROJECT["dependencies"]}
EXTRAS = {
    extra: {name_of(requirement) for requirement in requirements}
    for extra, requirements in PROJECT["optional-dependencies"].items()
}
DECLARED = RUNTIME.union(*EXTRAS.values())
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line[:1].isalnum()
)


def imported(*folders: str) -> dict[str, set[str]]:
    """Distribution → files that import it, for everything that is neither ours nor Python's own."""
    ours = {*ROOMS, "tests", "benchmarks"} | sys.stdlib_module_names
    distributions = packages_distributions()
    found: dict[str, set[str]] = {}
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = _names(node)
            for name in {name.partition(".")[0] for name in names} - ours:
                distribution = name_of(distributions.get(name, [name])[0])
                found.setdefault(distribution, set()).add(str(path.relative_to(ROOT)))
    return found


def _names(node: ast.AST) -> list[str]:
    """Modules that `node` imports, or takes the data of."""
    match node:
        case ast.Import(names=aliases):
            return [alias.name for alias in aliases]
        case ast.ImportFrom(module=str(module), level=0):
            return [module]
        case ast.Call(func=ast.Attribute(attr="files" | "import_module"), args=[ast.Constant(value=str(package)), *_]):
            return [package]
    return []


def test_dependencies_are_named_without_versions() -> None:
    declared = [*PROJECT["dependencies"], *(r for rs in PROJECT["optional-dependencies"].values() for r in rs)]
    assert [requirement for requirement in declared if re.search(r"[=<>~!]", requirement)] == []


def test_every_dependency_is_pinned_to_one_version() -> None:
    assert DECLARED - set(PINS) == set()
    assert [pin for pin in PINS.values() if not re.fullmatch(r"[0-9][0-9a-z.]*", pin)] == []
    assert PINS["torch"] == "2.13.0"


def test_what_is_installed_is_what_is_pinned() -> None:
    differing = {}
    for name, pin in PINS.items():
        try:
            installed = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
        if installed != pin and name != "pip":
            differing[name] = (installed, pin)
    assert differing == {}, "run `make setup`"


def test_every_import_of_the_program_is_a_declared_dependency() -> None:
    installed = RUNTIME.union(*(names for extra, names in EXTRAS.items() if extra != "dev"))
    undeclared = {name: files for name, files in imported(*ROOMS).items() if name not in installed}
    assert undeclared == {}


def test_every_import_of_tests_and_benchmarks_is_declared() -> None:
    assert {name: files for name, files in imported("tests", "benchmarks").items() if name not in DECLARED} == {}


@pytest.mark.parametrize(
    ("heading", "distributions"),
    [
        ("## To run", RUNTIME),
        ("## For some (extras)", set().union(*(names for extra, names in EXTRAS.items() if extra != "dev"))),
        ("## To develop (extra `dev`)", EXTRAS["dev"]),
    ],
)
def test_the_page_about_dependencies_names_exactly_these(heading: str, distributions: set[str]) -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    section = page.partition(heading)[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-z0-9-]+) \|.*\w.* \|$", section, re.MULTILINE)
    assert sorted(rows) == sorted(distributions)


def test_the_wheel_holds_the_six_rooms_their_data_and_the_command(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = archive.read(next(name for name in names if name.endswith("/entry_points.txt"))).decode()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == set(ROOMS)
    assert "models/catalog.toml" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert "ingle = ingle.cli:main" in entry_points
    on_disk = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert on_disk - names == set(), "something that a room needs at run time is left out of the wheel"

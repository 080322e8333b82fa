"""The Dockerfile, read without Docker."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) for each line, continuations joined, comments dropped."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    lines = (line.split(None, 1) for line in joined.splitlines() if line.strip())
    return [(word.upper(), rest) for word, rest in lines]


def of(kind: str) -> list[str]:
    return [rest for word, rest in instructions() if word == kind]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Stage → its instructions; the nameless last stage is ''."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = None
    for word, rest in instructions():
        if word == "FROM":
            name = rest.partition(" AS ")[2]
            found[name] = [(word, rest)]
        elif name is not None:
            found[name].append((word, rest))
    return found


def test_the_stages_are_build_cpu_and_cuda_and_cpu_is_the_default() -> None:
    assert {"build", "cpu", "cuda"} <= set(stages())
    assert of("FROM")[-1] == "${DEVICE}"
    assert "DEVICE=cpu" in of("ARG")


def test_the_base_is_one_full_version_tag() -> None:
    [base] = [arg.partition("=")[2] for arg in of("ARG") if arg.startswith("PYTHON_IMAGE=")]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)
    outside = {source.split()[0] for source in of("FROM")} - set(stages()) - {"${DEVICE}"}
    assert outside == {"${PYTHON_IMAGE}"}
    assert "latest" not in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_last_stages_run_as_a_numeric_user_and_install_nothing() -> None:
    assert [rest for word, rest in stages()["runtime"] if word == "USER"] == ["10001:10001"]
    for name in ("cpu", "cuda", ""):
        assert not [word for word, _ in stages()[name] if word in ("RUN", "USER", "ADD")]
    for name in ("runtime", "cpu", "cuda"):
        assert not [rest for _, rest in stages()[name] if re.search(r"\b(apt|apt-get|curl|gcc|pip)\b", rest)]


@pytest.mark.parametrize("word", ["ENTRYPOINT", "CMD", "VOLUME"])
def test_commands_and_volumes_have_the_exec_form(word: str) -> None:
    [form] = of(word)
    assert json.loads(form) == {"ENTRYPOINT": ["ingle"], "CMD": ["serve"], "VOLUME": ["/models", "/data"]}[word]


def test_the_health_check_asks_ingle_itself_after_a_long_start() -> None:
    [check] = of("HEALTHCHECK")
    options, _, command = check.partition(" CMD ")
    assert json.loads(command) == ["ingle", "health"]
    assert int(re.findall(r"--start-period=(\d+)s", options)[0]) >= 60


def test_it_stops_by_sigterm_and_exposes_the_default_port() -> None:
    assert of("STOPSIGNAL") == ["SIGTERM"]
    assert of("EXPOSE") == ["8080"]


def test_no_argument_or_variable_is_a_secret() -> None:
    names = re.findall(r"(\w+)=", " ".join([*of("ARG"), *of("ENV")]))
    assert not [name for name in names if re.search(r"KEY|TOKEN|SECRET|PASSWORD", name)]


def test_every_copied_path_exists_and_is_let_in() -> None:
    copied = [word for rest in of("COPY") if "--from" not in rest for word in rest.split()[:-1]]
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    assert [path for path in copied if not (ROOT / path).exists()] == []
    assert set(copied) == let_in


def test_dependencies_are_installed_under_the_constraints() -> None:
    installs = [rest for rest in of("RUN") if re.search(r"pip.{1,4}install", rest)]
    assert len(installs) == 2
    assert all("constraints.txt" in install for install in installs)

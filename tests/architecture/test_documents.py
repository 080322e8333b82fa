"""README and documents: the examples answer as shown, links lead somewhere."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ingle.commands.demo import running_server
from tests.readme import PAGE, ROOT, answer_of, differences, examples, with_answers

DOCUMENTS = [PAGE, *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_readme_opens_with_the_two_commands() -> None:
    first = re.search(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert first is not None
    assert first[1] == "$ make demo\n$ make test\n"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_the_repository_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8"))
    inside = [link for link in links if "://" not in link]
    assert [link for link in inside if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("record", sorted((ROOT / "docs" / "decisions").glob("0*.md")), ids=lambda path: path.name)
def test_a_decision_record_is_short_and_listed(record: Path) -> None:
    text = record.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    for part in ("Context", "Decision", "Consequences", "Refused"):
        assert f"**{part}.**" in text
    assert f"({record.name})" in (record.parent / "README.md").read_text(encoding="utf-8")


def test_differences_are_found_in_names_and_kinds_and_texts() -> None:
    assert differences('{"a": 1, "b": [{"c": "x"}]}', '{"a": 2.5, "b": [{"c": "y"}]}') == []
    assert differences('{"a": 1}', '{"a": null}') == []
    assert differences('{"a": 1}', '{"a": "1"}') == [".a is number in one and str in the other"] * 2
    assert differences('{"a": 1}', '{"b": 1}') != []
    assert differences("1\n00:00", "1\n00:01") == ["the text is another one"]
    assert differences('{"a": 1}\n{"b": 1}', '{"a": 1}\n{"a": 1}\n{"b": 2}') == []


def test_answers_are_written_below_their_commands() -> None:
    page = "Text.\n\n```console\n$ curl -s x\nold\n$ curl -s y\n```\n\n```console\n$ make demo\n```\n"
    assert with_answers(page, {"curl -s x": "new", "curl -s y": "why"}) == (
        "Text.\n\n```console\n$ curl -s x\nnew\n\n$ curl -s y\nwhy\n```\n\n```console\n$ make demo\n```\n"
    )


@pytest.mark.weights
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.timeout(300)
def test_every_example_of_the_readme_answers_as_shown() -> None:
    shown = list(examples(PAGE.read_text(encoding="utf-8")))
    assert len(shown) > 15
    wrong = {}
    with running_server() as url:
        for example in shown:
            try:
                given = answer_of(example.command, url)
            except subprocess.CalledProcessError as error:
                given = error.stderr
            if found := differences(example.answer, given):
                wrong[example.command] = found
    assert wrong == {}, "run `python -m tests.readme`, and read what changed"

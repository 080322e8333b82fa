"""The examples of README.md: every `$ curl …` with the answer below it.

`python -m tests.readme` runs them against a server of its own and writes the answers into the page.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingle.commands.demo import running_server

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "README.md"
SHOWN_ADDRESS = "http://127.0.0.1:8080"
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A command and what the page says that it prints."""

    command: str
    answer: str


def examples(page: str) -> Iterator[Example]:
    """Every `$ curl …` of `page`, in order."""
    for block in _BLOCK.findall(page):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, answer = part.partition("\n")
            if command.startswith("curl "):
                yield Example(command, answer.strip("\n"))


def answer_of(command: str, url: str) -> str:
    """What `command` prints when the server is at `url`. Raises CalledProcessError."""
    there = command.replace(SHOWN_ADDRESS, url)
    result = subprocess.run(["sh", "-c", there], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return result.stdout.replace(url, SHOWN_ADDRESS).strip("\n")


def with_answers(page: str, answers: dict[str, str]) -> str:
    """`page` with the answer of each command below it, and an empty line after it."""

    def filled(block: re.Match[str]) -> str:
        commands = re.findall(r"^\$ (.*)$", block[1], re.MULTILINE)
        if not any(command in answers for command in commands):
            return block[0]
        parts = (f"$ {command}\n{answers[command]}\n" for command in commands)
        return "```console\n" + "\n".join(parts) + "```"

    return _BLOCK.sub(filled, page)


def differences(shown: str, given: str) -> list[str]:
    """Where two answers differ in more than their values: in names, in kinds of values, in a text's letters.

    Of a stream the first and the last record count; null and empty lists stand for any value.
    """
    try:
        pairs = zip(_ends(shown), _ends(given), strict=True)
    except ValueError:
        return [] if shown == given else ["the text is another one"]
    return [difference for one, other in pairs for difference in _differences(one, other, "")]


def _ends(answer: str) -> list[Any]:
    """The first and the last record of an answer in JSON, as NDJSON or as server-sent events. Raises ValueError."""
    lines = [line.removeprefix("data: ") for line in answer.splitlines() if line]
    return [json.loads(lines[0]), json.loads(lines[-1])]


def _differences(one: Any, other: Any, where: str) -> Iterator[str]:
    if one is None or other is None:
        return
    if isinstance(one, dict) and isinstance(other, dict):
        yield from (f"{where}.{name} is in one of them only" for name in one.keys() ^ other.keys())
        for name in one.keys() & other.keys():
            yield from _differences(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, list) and isinstance(other, list):
        for first, second in list(zip(one, other, strict=False))[:1]:
            yield from _differences(first, second, f"{where}[0]")
    elif _kind(one) != _kind(other):
        yield f"{where} is {_kind(one)} in one and {_kind(other)} in the other"


def _kind(value: Any) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def main() -> None:
    """Write the answers of a server on this machine into the page."""
    page = PAGE.read_text(encoding="utf-8")
    with running_server() as url:
        answers = {example.command: answer_of(example.command, url) for example in examples(page)}
    PAGE.write_text(with_answers(page, answers), encoding="utf-8")
    sys.stdout.write(f"{len(answers)} answers are in {PAGE.name}\n")


if __name__ == "__main__":
    main()

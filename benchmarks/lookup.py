"""What prompt lookup gives: tokens a second with guesses checked and without, where an answer copies and where not.

    python -m benchmarks.lookup [--model NAME] [--rounds N] [--json]

Two servers are started that differ in `INGLE_SPECULATION` alone, and driven over HTTP in turns by the same greedy
requests. A prompt to copy holds a program to be given back with a change; one to write wants a story. Rates are tokens
of all streams over the time from the first one's first to the last one's last; each is the median over rounds.
"""

import argparse
import json
import os
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.load import Body, LoadGenerator
from benchmarks.prompts import Prompts
from benchmarks.server import Server
from benchmarks.streaming import Answer
from benchmarks.table import table
from benchmarks.text import MODEL

STREAMS = (1, 8)
TASKS = ("copy", "write")
MODES = ("off", "auto")
_NEW_TOKENS = 128
_LINES = 30
_PROMPT_TOKENS = 130


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens a second of all `streams` together."""

    task: str
    streams: int
    off: float
    auto: float


def measure(model: str, rounds: int) -> list[Row]:
    """Every task with every number of streams. Raises ServerFailed, RequestFailed."""
    with ExitStack() as stack:
        loads = {}
        for mode in MODES:
            environment = {**os.environ, "INGLE_SPECULATION": mode}
            server = stack.enter_context(Server("--preload", model, environment=environment))
            loads[mode] = stack.enter_context(LoadGenerator(f"{server.url}/v1"))
        prompts = Prompts(lambda text: _tokens(loads["off"], model, text))
        for load in loads.values():
            load.burst([_body(model, prompts.make(_PROMPT_TOKENS), 8)])
        return [_row(loads, model, prompts, task, streams, rounds) for task in TASKS for streams in STREAMS]


def _row(loads: dict[str, LoadGenerator], model: str, prompts: Prompts, task: str, streams: int, rounds: int) -> Row:
    rates: dict[str, list[float]] = {mode: [] for mode in MODES}
    for _ in range(rounds):
        bodies = [_body(model, _prompt(prompts, task), _NEW_TOKENS) for _ in range(streams)]
        for mode, load in loads.items():
            rates[mode].append(_rate(load.burst(bodies)))
    return Row(task, streams, median(rates["off"]), median(rates["auto"]))


def _prompt(prompts: Prompts, task: str) -> str:
    if task == "write":
        return prompts.make(_PROMPT_TOKENS)
    lines = (Path(__file__).parent / "texts" / "code.txt").read_text(encoding="utf-8").splitlines()[:_LINES]
    # The words come first, so that two prompts differ from their first token on.
    return (
        prompts.make(30).partition(". ")[0]
        + ".\n\nAdd a comment to this code and give back all of it:\n\n"
        + "\n".join(lines)
    )


def _body(model: str, prompt: str, max_tokens: int) -> Body:
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }


def _tokens(load: LoadGenerator, model: str, text: str) -> int:
    return load.burst([_body(model, text, 1)])[0].prompt_tokens or 0


def _rate(answers: list[Answer]) -> float:
    began = min(answer.arrivals[0] for answer in answers)
    return sum(answer.tokens - 1 for answer in answers) / (max(answer.ended for answer in answers) - began)


def main() -> int:
    """Print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lookup", description=__doc__)
    parser.add_argument("--model", default=MODEL, help="an installed text model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(options.model, options.rounds)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return 0
    headings = ("task", "streams", "tok/s without", "tok/s with", "ratio")
    cells = [
        (row.task, str(row.streams), f"{row.off:.1f}", f"{row.auto:.1f}", f"{row.auto / row.off:.2f}") for row in rows
    ]
    print(table(headings, cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A child process that runs models, so that torch and its threads never share a process with whoever measures.

A line of JSON in, a line of JSON out. `serve` is the child's side: `python -m benchmarks.NAME` calls it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

Ask = dict[str, Any]


class WorkerFailed(Exception):
    """The child ended before it answered; what it wrote to standard error says why."""


class Worker:
    """`python -m module` within a `with` block; `environment` goes over the environment of this process."""

    def __init__(self, module: str, **environment: str) -> None:
        self._module = module
        self._environment = {**os.environ, **environment}

    def __enter__(self) -> Self:
        """Start it; it loads what it needs when it is first asked."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def ask(self, **question: Any) -> Any:
        """Its answer. Raises WorkerFailed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise WorkerFailed(f"{self._module} ended before it answered")
        return json.loads(line)


def serve(answer: Callable[[Ask], Any]) -> None:
    """Answer questions until there are no more. Whatever else writes to standard output goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        out.write(json.dumps(answer(json.loads(line))) + "\n")
        out.flush()

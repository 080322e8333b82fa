"""Where a subcommand writes: answers to standard output, everything about them to standard error."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

WIDE = 1000


def output() -> Console:
    """Answers. Markup is off: a model's name in brackets is a name, not a colour."""
    return _console(stderr=False)


def messages() -> Console:
    """Progress, timings, advice."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = WIDE  # a program that reads a table wants whole lines
    return console


@contextmanager
def status(message: str) -> Iterator[None]:
    """`message` with a spinner on a terminal, until the block ends."""
    console = messages()
    if not console.is_terminal:
        yield
        return
    with console.status(message):
        yield


def byte_progress() -> Progress:
    """Bars that count bytes."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return _bars(*columns)


def second_progress() -> Progress:
    """Bars that count seconds of sound."""
    columns = (BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f} s"), TimeRemainingColumn())
    return _bars(*columns)


def _bars(*columns: ProgressColumn) -> Progress:
    console = messages()
    return Progress(TextColumn("{task.description}"), *columns, console=console, disable=not console.is_terminal)

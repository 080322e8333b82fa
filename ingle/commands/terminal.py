"""Where a subcommand writes: answers to standard output, everything about them to standard error."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


def output() -> Console:
    """Answers. Markup is off: a model's name in brackets is a name, not a colour."""
    return Console(markup=False, highlight=False, emoji=False, soft_wrap=True)


def messages() -> Console:
    """Progress, timings, advice."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False)


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
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, console=messages())


def second_progress() -> Progress:
    """Bars that count seconds of sound."""
    columns = (BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f} s"), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, console=messages())

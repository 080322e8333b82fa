"""Changes of a models folder in processes of their own, stopped at any step that changes the disk."""

import errno
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from domain.errors import InsufficientStorage
from domain.library import NewModel
from domain.preset import Preset
from models.catalog import Catalog
from models.store import ModelStore
from tests.fakes.registry import Registry
from tests.models.pulling import open_store, unheard

NO_ROOM = 3
"""How a process ends that was told that the disk is full."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])  # or every process would import everything anew
_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Address:
    """Where the registry is; unlike the registry itself it can be sent to another process."""

    def __init__(self, registry: Registry) -> None:
        self.index_url = registry.index_url
        self.hub_url = registry.hub_url


Work = Callable[[ModelStore, str], object]


def pull(store: ModelStore, name: str) -> None:
    """Install `name`."""
    store.pull(name, unheard)


def remove(store: ModelStore, name: str) -> None:
    """Take `name` off the disk."""
    store.remove(name)


def copy(store: ModelStore, name: str) -> None:
    """Give `name` the second name `twin`."""
    store.copy(name, "twin")


def create(store: ModelStore, name: str) -> None:
    """Make `pirate` from `name`."""
    store.create(NewModel("pirate", name, Preset(system="Arr.")))


def die_at(moment: int) -> None:
    """End this process, as by a loss of power, just before its `moment`th change of the disk."""
    _count(moment, lambda: os.kill(os.getpid(), signal.SIGKILL))


def fill_at(moment: int) -> None:
    """Let this process find the disk full at its `moment`th change."""

    def refuse() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _count(moment, refuse)


def _count(moment: int, then: Callable[[], None]) -> None:
    changes = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal changes
        flags = arguments[2] if event == "open" and len(arguments) > 2 else 0
        if event in _CHANGES or (isinstance(flags, int) and flags & _WRITING):
            changes += 1
            if changes == moment:
                then()

    if moment:
        sys.addaudithook(count)


def _run(root: Path, address: Address, catalog: Catalog, work: Work, name: str, dies_at: int, fills_at: int) -> None:
    store = open_store(root, address, catalog)
    die_at(dies_at)
    fill_at(fills_at)
    try:
        work(store, name)
    except InsufficientStorage:
        sys.exit(NO_ROOM)


@contextmanager
def changing(
    root: Path,
    registry: Registry,
    catalog: Catalog,
    work: Work,
    name: str,
    *,
    dies_at: int = 0,
    fills_at: int = 0,
) -> Iterator[BaseProcess]:
    """A process that does `work` with the model `name`; it is dead when the block ends."""
    process = _CONTEXT.Process(
        target=_run, args=(root, Address(registry), catalog, work, name, dies_at, fills_at), daemon=True
    )
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()

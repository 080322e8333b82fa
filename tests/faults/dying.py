"""Pulls in processes of their own, which can be killed at any step that changes the disk."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from models.catalog import Catalog
from tests.fakes.registry import Registry
from tests.models.pulling import open_store, unheard

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])  # or every process would import everything anew
_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Address:
    """Where the registry is; unlike the registry itself it can be sent to another process."""

    def __init__(self, registry: Registry) -> None:
        self.index_url = registry.index_url
        self.hub_url = registry.hub_url


def _pull(root: Path, address: Address, catalog: Catalog, name: str, die_at: int) -> None:
    """Pull `name`; die, as by a loss of power, just before the `die_at`th change of the disk (0: never)."""
    changes = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal changes
        flags = arguments[2] if event == "open" and len(arguments) > 2 else 0
        if event in _CHANGES or (isinstance(flags, int) and flags & _WRITING):
            changes += 1
            if changes == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    if die_at:
        sys.addaudithook(count)
    open_store(root, address, catalog).pull(name, unheard)


@contextmanager
def pulling(root: Path, registry: Registry, catalog: Catalog, name: str, die_at: int = 0) -> Iterator[BaseProcess]:
    """A process that pulls `name`; it is dead when the block ends."""
    process = _CONTEXT.Process(target=_pull, args=(root, Address(registry), catalog, name, die_at), daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()

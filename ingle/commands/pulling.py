"""Pulls a model with a progress bar, in a thread, so that Ctrl-C ends it between two blocks of bytes."""

import threading
from concurrent.futures import ThreadPoolExecutor

from rich.filesize import decimal

from domain.library import PullProgress
from ingle.commands.terminal import byte_progress, messages
from models.installed import InstalledModel
from models.store import ModelStore


def pull_with_progress(store: ModelStore, name: str, *, afresh: bool = False) -> InstalledModel:
    """Pull `name` and show how far it is; `afresh` hashes again what is here already.

    Interrupted, it stops cleanly: the next pull goes on from there. Raises what ModelStore.pull raises, and
    KeyboardInterrupt.
    """
    cancelled = threading.Event()
    console = messages()
    with byte_progress() as bars, ThreadPoolExecutor(1, "pull") as thread:
        tasks = {}

        def show(progress: PullProgress) -> None:
            if not progress.file:
                return
            if progress.file not in tasks:
                tasks[progress.file] = bars.add_task(f"{name} {progress.file}", total=progress.total or None)
                if not console.is_terminal:
                    console.print(f"pulling {name}: {progress.file} ({decimal(progress.total)})")
            bars.update(tasks[progress.file], completed=progress.completed, total=progress.total or None)

        work = thread.submit(store.pull, name, show, cancelled, afresh=afresh)
        try:
            return work.result()
        except KeyboardInterrupt:
            cancelled.set()
            console.print("stopping; run the same command again to go on from here")
            raise

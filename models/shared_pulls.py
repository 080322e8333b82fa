"""One pull for all who ask for the same model: the work has a thread of its own, callers watch it.

A caller that leaves does not disturb the others; when the last one has left, the work is cancelled.
"""

import queue
import threading
from collections.abc import Callable

from domain.errors import RequestCancelled
from domain.library import PullProgress
from models.sources.source import Cancellation

Work = Callable[[Callable[[PullProgress], None], Cancellation], None]

_POLL = 0.1


class SharedPulls:
    """The pulls that are going on in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, _Running] = {}

    def join(
        self, key: str, work: Work, on_progress: Callable[[PullProgress], None], cancelled: threading.Event | None
    ) -> None:
        """Do `work`, or watch the work for `key` that is already going on; returns when it is done.

        `on_progress` is called in the caller's own thread. Raises what the work raised, or RequestCancelled
        within a second after `cancelled` was set.
        """
        running, inbox = self._enter(key, work, cancelled)
        try:
            while (progress := _next(inbox, cancelled)) is not None:
                on_progress(progress)
        finally:
            self._leave(running, inbox)
        if running.failure is not None:
            raise running.failure

    def _enter(
        self, key: str, work: Work, cancelled: threading.Event | None
    ) -> "tuple[_Running, queue.SimpleQueue[PullProgress | None]]":
        inbox: queue.SimpleQueue[PullProgress | None] = queue.SimpleQueue()
        while True:
            with self._lock:
                running = self._running.get(key)
                if running is None:
                    running = self._running[key] = _Running()
                    running.inboxes.append(inbox)
                    threading.Thread(
                        target=self._run, args=(key, running, work), name=f"pull {key}", daemon=True
                    ).start()
                    return running, inbox
                if not running.cancellation.is_cancelled():
                    running.inboxes.append(inbox)
                    if running.last is not None:
                        inbox.put(running.last)
                    return running, inbox
            running.ended.wait(_POLL)
            _check(cancelled)

    def _run(self, key: str, running: "_Running", work: Work) -> None:
        def report(progress: PullProgress) -> None:
            with self._lock:
                running.last = progress
                for inbox in running.inboxes:
                    inbox.put(progress)

        try:
            work(report, running.cancellation)
        except BaseException as error:
            running.failure = error
        finally:
            with self._lock:
                del self._running[key]
                for inbox in running.inboxes:
                    inbox.put(None)
            running.ended.set()

    def _leave(self, running: "_Running", inbox: "queue.SimpleQueue[PullProgress | None]") -> None:
        with self._lock:
            running.inboxes.remove(inbox)
            abandoned = not running.inboxes and not running.ended.is_set()
        if abandoned:
            running.cancellation.cancel()


class _Running:
    """One pull: who watches it, and how it ended."""

    def __init__(self) -> None:
        self.cancellation = Cancellation()
        self.inboxes: list[queue.SimpleQueue[PullProgress | None]] = []
        self.last: PullProgress | None = None
        self.failure: BaseException | None = None
        self.ended = threading.Event()


def _next(inbox: "queue.SimpleQueue[PullProgress | None]", cancelled: threading.Event | None) -> PullProgress | None:
    while True:
        _check(cancelled)
        try:
            return inbox.get(timeout=_POLL)
        except queue.Empty:
            continue


def _check(cancelled: threading.Event | None) -> None:
    if cancelled is not None and cancelled.is_set():
        raise RequestCancelled("the pull was cancelled: what has been downloaded is kept for the next one")

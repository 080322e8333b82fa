"""The process that nursery.py talks to: it imports everything, does nothing, and forks when it is asked to."""

import contextlib
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from celery.__main__ import main as celery

from ingle.cli import main as ingle
from ingle.environment import importing
from tests.faults.nursery import MOST_BYTES, PARENT

# Not ingle.celery_app, which reads its settings as it is imported.
_IMPORTED = (
    "celery.bin.celery",
    "celery.worker",
    "infrastructure.queue.app",
    "infrastructure.queue.worker",
    "ingle.commands.serve",
    "ingle.commands.worker",
    "ingle.server",
    "ingle.worker_process",
)
_COMMANDS: Mapping[str, Callable[[], int | None]] = {"ingle": ingle, "celery": celery}


def _become(request: Mapping[str, Any], out: int) -> NoReturn:
    """Go on as that command; whoever calls this ends as it does."""
    os.dup2(out, 1)
    if request["complaints"]:
        os.dup2(out, 2)
    os.close(out)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["command"]
    sys.exit(_COMMANDS[sys.argv[0]]())


def _next_child(link: socket.socket) -> tuple[Mapping[str, Any], int] | None:
    """In each child what it is to become, and where it writes; None in the parent, when nobody asks any more."""
    children: set[int] = set()
    while True:
        data, fds, _, _ = socket.recv_fds(link, MOST_BYTES, 1)
        if not data:
            break
        request = json.loads(data)
        if "ended" in request:
            _, status = os.waitpid(request["ended"], 0)
            children.discard(request["ended"])
            link.send(str(os.waitstatus_to_exitcode(status)).encode())
            continue
        pid = os.fork()
        if not pid:
            return request, *fds
        os.close(*fds)
        children.add(pid)
        link.send(str(pid).encode())
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return None


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with importing():
        for _name in _IMPORTED:
            importlib.import_module(_name)
    with socket.socket(fileno=int(os.environ.pop(PARENT))) as _link:
        _child = _next_child(_link)
    if _child is not None:
        _become(*_child)

"""The process itself: what libraries read from its environment, how it collects garbage, how its threads take turns.

Libraries read their variables when they are first imported, so these must be there before that.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SETTINGS = {
    # How often a kernel thread looks again before it sleeps. A step has hundreds of products with a pause between
    # each two: threads that sleep at once make a step twice as long, and threads that go on looking take the cores
    # from the event loop and the clients, so that a step on a shared core takes up to ten times as long.
    # The first is for GNU's OpenMP, which torch uses; the second, in milliseconds, for Intel's, as in CTranslate2.
    "GOMP_SPINCOUNT": "1000",
    "KMP_BLOCKTIME": "1",
    # Loading and serving local models opens no connection.
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

_SWITCH_SECONDS = 0.0005
_M_ARENA_MAX = -8  # of glibc's malloc.h
_ARENAS = 2


def prepare() -> None:
    """Set what is not set yet. Call it before anything imports torch, transformers or CTranslate2."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if "MALLOC_ARENA_MAX" not in os.environ:
        _share_arenas()


@contextmanager
def importing() -> Iterator[None]:
    """For the block that imports the libraries: half a million objects, all of which stay.

    To collect garbage among them again and again takes a third of a start, and each collection later would walk them
    once more; so nothing is collected here, and what is there at the end is never looked at again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def settle() -> None:
    """Before anybody waits for answers: nothing of what happens later may hold up the event loop for long.

    A garbage collection walks every object of the libraries, 0.3 s of them; what is there now stays, and need not be
    walked again. A thread that computes in Python gives way to the event loop after half a millisecond.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(_SWITCH_SECONDS)


def _share_arenas() -> None:
    """Let all threads take memory from the same few places.

    glibc gives each thread a heap of its own, in which what one model frees is of no use to the threads of the next:
    the same model that comes and goes ten times leaves up to 200 MB behind.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, _ARENAS)

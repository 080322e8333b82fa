"""Who computes for long lets the others go first: by niceness, which Linux keeps for each thread.

Elsewhere nothing happens. Nobody can take it back, so it is for threads and processes that never do anything else.
"""

import os
import sys
import threading

THREAD_NICENESS = 19
PROCESS_NICENESS = 10


def give_way() -> None:
    """The calling thread, and what it starts, computes when nobody else wants to."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), THREAD_NICENESS)


def make_way(process: int) -> None:
    """The process of that number computes less than the others. Raises ProcessLookupError if there is none."""
    # To be put back up to it is forbidden.
    if sys.platform == "linux" and os.getpriority(os.PRIO_PROCESS, process) < PROCESS_NICENESS:
        os.setpriority(os.PRIO_PROCESS, process, PROCESS_NICENESS)

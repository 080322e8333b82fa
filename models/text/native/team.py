"""Threads that compute a step together."""

import weakref

from models.text.native.library import library


class Team:
    """`size` threads, the caller among them, that end when nobody holds the team any more."""

    def __init__(self, size: int) -> None:
        native = library()
        assert native is not None
        address = native.team_new(size)
        if not address:
            raise OSError(f"the system gives no {size} threads")
        self.address = int(address)
        weakref.finalize(self, native.team_free, address)

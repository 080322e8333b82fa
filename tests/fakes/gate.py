"""A door that a test holds shut until it has seen what it wants to see."""

import asyncio


class Gate:
    """Open by default. While it is shut, whoever comes waits; `arrived` tells the test that somebody does.

    `let_through(n)` lets the next `n` pass through a shut gate and leaves it shut.
    """

    def __init__(self) -> None:
        self._is_open = True
        self._passes = 0
        self._waiting = 0
        self._changed = asyncio.Event()

    @property
    def is_shut(self) -> bool:
        """Whether it holds whoever comes."""
        return not self._is_open

    @property
    def waiting(self) -> int:
        """How many stand before the gate now."""
        return self._waiting

    def shut(self) -> "Gate":
        """Hold whoever comes from now on."""
        self._is_open = False
        return self

    def open(self) -> None:
        """Let everybody through, now and later."""
        self._is_open = True
        self._wake()

    def let_through(self, count: int = 1) -> None:
        """Let `count` more pass and keep the gate shut for the rest."""
        self._passes += count
        self._wake()

    async def pass_through(self) -> None:
        """Wait until the gate lets us through; returns without a pause when it is open."""
        if self._is_open:
            return
        self._waiting += 1
        self._wake()
        try:
            while not self._is_open and not self._passes:
                await self._changed.wait()
            if not self._is_open:
                self._passes -= 1
        finally:
            self._waiting -= 1
            self._wake()

    async def arrived(self, count: int = 1) -> None:
        """Wait until `count` stand before the gate."""
        while self._waiting < count:
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

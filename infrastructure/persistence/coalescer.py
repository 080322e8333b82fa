"""Calls that arrive while others are being answered go together, in one operation."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from domain.errors import IngleError

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(slots=True)
class _Call(Generic[Q, A]):
    key: Hashable
    question: Q
    answer: "asyncio.Future[A]"


class Coalescer(Generic[Q, A]):
    """Answers questions by `ask`, up to `most` at a time, with at most `in_flight` operations open.

    No key is in two open operations or twice in one. What `ask` raises, everybody in that operation gets.
    """

    def __init__(
        self, ask: Callable[[Sequence[Q]], Awaitable[Sequence[A | IngleError]]], *, most: int, in_flight: int
    ) -> None:
        self._ask, self._most, self._free = ask, most, in_flight
        self._waiting: list[_Call[Q, A]] = []
        self._open: set[Hashable] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, key: Hashable, question: Q) -> A:
        """The answer to `question`. A caller that leaves does not stop what it asked for."""
        call: _Call[Q, A] = _Call(key, question, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        self._start()
        return await call.answer

    def _start(self) -> None:
        if self._free and any(call.key not in self._open for call in self._waiting):
            self._free -= 1
            task = asyncio.ensure_future(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _next_group(self) -> list[_Call[Q, A]]:
        group: list[_Call[Q, A]] = []
        left: list[_Call[Q, A]] = []
        for call in self._waiting:
            if len(group) < self._most and call.key not in self._open:
                self._open.add(call.key)
                group.append(call)
            else:
                left.append(call)
        self._waiting = left
        return group

    async def _run(self) -> None:
        """Take what waits, and answer it."""
        # One turn of the loop first: calls that are already on their way join.
        await asyncio.sleep(0)
        group = self._next_group()
        try:
            if group:
                self._answer(group, await self._ask([call.question for call in group]))
        except Exception as error:
            for call in group:
                if not call.answer.done():
                    call.answer.set_exception(error)
        finally:
            self._open.difference_update(call.key for call in group)
            self._free += 1
            # A task that is cancelled, as the loop closes, leaves nobody waiting.
            for call in group:
                call.answer.cancel()
        self._start()

    def _answer(self, group: Sequence[_Call[Q, A]], answers: Sequence[A | IngleError]) -> None:
        for call, answer in zip(group, answers, strict=True):
            if call.answer.done():
                continue
            if isinstance(answer, IngleError):
                call.answer.set_exception(answer)
            else:
                call.answer.set_result(answer)

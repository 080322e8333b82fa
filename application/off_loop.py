"""Work on JSON that would keep the event loop from its other callers."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from domain.json_text import is_large

T = TypeVar("T")


async def off_loop(value: Any, work: Callable[[], T]) -> T:
    """What `work` gives: in a thread where `value`, which it reads or writes, is large, else at once."""
    return await asyncio.to_thread(work) if is_large(value) else work()

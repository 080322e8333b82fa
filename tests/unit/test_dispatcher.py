"""The dispatcher over a broker in memory, under a clock that jumps."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from application.dispatcher import AT_ONCE, Dispatcher
from application.job_ports import Call
from tests.fakes.broker import InMemoryBroker, InMemoryCalls
from tests.fakes.job_ledger import Bell
from tests.fakes.virtual_time import settle, virtual_time


class Post:
    """A dispatcher at work, and what it works with."""

    def __init__(self) -> None:
        self.broker, self.calls, self.bell = InMemoryBroker("llm_chat"), InMemoryCalls(), Bell()
        self.dispatcher = Dispatcher(self.calls, self.broker, self.bell)

    def add(self, *names: str, task_type: str = "llm_chat") -> None:
        self.calls.waiting += [Call(name, task_type, 0) for name in names]


@asynccontextmanager
async def dispatching() -> AsyncIterator[Post]:
    post = Post()
    running = asyncio.create_task(post.dispatcher.run())
    await settle()
    try:
        yield post
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert post.broker.is_closed


@virtual_time
async def test_a_hint_has_a_new_job_told_at_once_and_nobody_needs_one() -> None:
    async with dispatching() as post:
        post.add("hinted")
        post.bell.ring(["qwen"])
        await settle()
        assert post.broker.told == ["hinted"]
        post.add("unheard", task_type="call_analysis")
        post.add("later")
        await asyncio.sleep(6.1)
        assert post.broker.told == ["hinted", "later"]


@virtual_time
async def test_many_jobs_are_told_of_in_steps_until_none_is_left() -> None:
    async with dispatching() as post:
        post.add(*(str(n) for n in range(2 * AT_ONCE + 1)))
        post.bell.ring(["qwen"])
        await settle()
        assert len(post.broker.told) == 2 * AT_ONCE + 1


@virtual_time
async def test_what_a_broken_broker_did_not_take_is_told_when_it_is_back() -> None:
    async with dispatching() as post:
        assert post.dispatcher.is_up
        post.broker.breaks_after = 1
        post.add("sent", "lost", "lost too")
        post.bell.ring(["qwen"])
        await settle()
        assert post.broker.told == ["sent"]
        await asyncio.sleep(13)
        assert not post.dispatcher.is_up
        assert [call.job_id for call in post.calls.waiting] == ["lost", "lost too"]
        post.broker.is_away = False
        await asyncio.sleep(6.1)
        assert post.dispatcher.is_up
        assert post.broker.told == ["sent", "lost", "lost too"]


@virtual_time
async def test_hints_do_not_hurry_a_broker_that_is_away() -> None:
    async with dispatching() as post:
        post.broker.is_away = True
        await asyncio.sleep(6.1)
        asked = post.broker.asked
        for _ in range(50):
            post.bell.ring(["qwen"])
            await asyncio.sleep(0.01)
        assert post.broker.asked == asked


@virtual_time
async def test_a_broker_that_is_full_is_told_nothing_and_is_not_down() -> None:
    async with dispatching() as post:
        post.broker.types = ()
        post.add("one")
        await asyncio.sleep(6.1)
        assert post.dispatcher.is_up
        assert [call.job_id for call in post.calls.waiting] == ["one"]

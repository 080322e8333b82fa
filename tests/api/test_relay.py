"""A generator's way to a client: in order, never far ahead, and closed when the client is gone."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from api.errors import ClientLeft
from api.relay import MAX_READY, NothingYet, ReaderStalled, Relay


class Client:
    """Leaves when the test says so; takes what is sent only while it is `reading`."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.reading = asyncio.Event()
        self.asked = asyncio.Event()
        self.got: list[Any] = []

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.asked.set()
        await self.reading.wait()
        self.got.append(message["body"])


class Source:
    """A generator of numbers without end."""

    def __init__(self) -> None:
        self.made = 0
        self.full = asyncio.Event()
        self.closed = asyncio.Event()

    async def numbers(self) -> AsyncGenerator[int, None]:
        try:
            while True:
                self.made += 1
                if self.made == MAX_READY:
                    self.full.set()
                yield self.made
        finally:
            self.closed.set()


async def some(*items: Any) -> AsyncGenerator[Any, None]:
    for item in items:
        if isinstance(item, Exception):
            raise item
        if isinstance(item, asyncio.Event):
            await item.wait()
            continue
        yield item


def body(content: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content}


async def test_what_is_ready_at_the_same_time_is_taken_together() -> None:
    gate = asyncio.Event()
    relay = Relay(some(1, 2, gate, 3), Client().receive)
    assert await relay.take() == [1, 2]
    with pytest.raises(NothingYet):
        await relay.take(0.01)
    gate.set()
    assert await relay.take(5) == [3]
    with pytest.raises(StopAsyncIteration):
        await relay.take()
    await relay.close()


async def test_a_failure_comes_after_what_was_made_before_it() -> None:
    relay = Relay(some(1, ValueError("no")), Client().receive)
    assert await relay.take() == [1]
    with pytest.raises(ValueError, match="no"):
        await relay.take()
    await relay.close()


async def test_a_reader_that_stops_reading_stops_the_generator() -> None:
    source = Source()
    relay = Relay(source.numbers(), Client().receive)
    await source.full.wait()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(source.closed.wait(), 0.02)
    assert source.made == MAX_READY
    assert await relay.take() == list(range(1, MAX_READY + 1))
    await relay.close()
    assert source.closed.is_set()


async def test_a_client_that_leaves_ends_the_wait_for_an_item() -> None:
    client = Client()
    relay = Relay(some(asyncio.Event()), client.receive)
    taking = asyncio.create_task(relay.take(60))
    client.left.set()
    with pytest.raises(ClientLeft):
        await taking
    await relay.close()


async def test_a_client_that_leaves_ends_a_send_under_way() -> None:
    client = Client()
    relay = Relay(some(1), client.receive)
    running = asyncio.create_task(relay.run(relay.send(client.send, body(b"x"), 60)))
    await client.asked.wait()
    client.left.set()
    with pytest.raises(ClientLeft):
        await running
    with pytest.raises(ClientLeft):
        await relay.send(client.send, body(b"y"), 60)
    assert client.got == []
    await relay.close()


async def test_a_client_that_does_not_read_is_given_up() -> None:
    client = Client()
    relay = Relay(some(1), client.receive)
    began = 0.0

    async def delivery() -> None:
        nonlocal began
        client.reading.set()
        await relay.send(client.send, body(b"x"), 0.05)
        client.reading.clear()
        began = asyncio.get_running_loop().time()
        await relay.send(client.send, body(b"y"), 0.05)

    with pytest.raises(ReaderStalled):
        await relay.run(delivery())
    # The whole patience, though the timer of the first send fired on the way.
    assert asyncio.get_running_loop().time() - began >= 0.045
    assert client.got == [b"x"]
    await relay.close()


async def test_a_client_that_leaves_when_it_has_everything_ends_nothing() -> None:
    client = Client()
    client.reading.set()
    relay = Relay(some(1), client.receive)

    async def delivery() -> None:
        await relay.send(client.send, body(b"x"), 60)
        client.left.set()
        await asyncio.wait({relay._gone})
        await asyncio.sleep(0)

    await relay.run(delivery())
    assert client.got == [b"x"]
    await relay.close()


async def test_a_delivery_fails_with_what_it_raised() -> None:
    relay = Relay(some(ValueError("no")), Client().receive)

    async def delivery() -> None:
        await relay.take()

    with pytest.raises(ValueError, match="no"):
        await relay.run(delivery())
    await relay.close()


async def test_cancelling_the_run_and_closing_end_the_delivery() -> None:
    client = Client()
    relay = Relay(some(1), client.receive)
    ended = asyncio.Event()

    async def delivery() -> None:
        try:
            await relay.send(client.send, body(b"x"), 60)
        finally:
            ended.set()

    running = asyncio.create_task(relay.run(delivery()))
    await client.asked.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await relay.close()
    assert ended.is_set()


async def test_closing_the_relay_closes_the_generator() -> None:
    source = Source()
    relay = Relay(source.numbers(), Client().receive)
    await relay.take()
    await relay.close()
    assert source.closed.is_set()

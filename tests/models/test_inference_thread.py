"""The owner thread of a device: order, turns, failures, the end."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from models import inference_thread
from models.inference_thread import InferenceThread


@pytest.fixture
def thread() -> Iterator[InferenceThread]:
    thread = InferenceThread("test")
    yield thread
    thread.close()


class Counter:
    """Steps as often as it is told to, and says who stepped."""

    def __init__(self, name: str, steps: int, log: list[str]) -> None:
        self.name, self.left, self.log = name, steps, log
        self.done = threading.Event()

    def step(self) -> bool:
        if self.left:
            self.left -= 1
            self.log.append(self.name)
        if not self.left:
            self.done.set()
        return self.left > 0


async def test_calls_run_in_order_on_one_thread(thread: InferenceThread) -> None:
    seen: list[tuple[int, int]] = []
    calls = [lambda n=n: seen.append((n, threading.get_ident())) for n in range(20)]
    await asyncio.gather(*(thread.submit(call) for call in calls))
    assert [number for number, _ in seen] == list(range(20))
    assert {identity for _, identity in seen}.isdisjoint({threading.get_ident()})
    assert len({identity for _, identity in seen}) == 1


async def test_a_failing_call_fails_alone(thread: InferenceThread) -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await thread.submit(fail)
    assert await thread.submit(lambda: 7) == 7


async def test_engines_take_turns(thread: InferenceThread) -> None:
    log: list[str] = []
    first, second = Counter("a", 3, log), Counter("b", 3, log)
    hold = threading.Event()
    thread.call_soon(hold.wait)
    thread.attach(first)
    thread.attach(second)
    hold.set()
    assert await asyncio.to_thread(second.done.wait, 10)
    assert log == ["a", "b"] * 3
    await thread.detach(first)
    await thread.detach(second)


async def test_an_engine_that_raises_does_not_stop_the_others(
    thread: InferenceThread, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def step(self) -> bool:
            raise RuntimeError("escaped")

    log: list[str] = []
    broken, fine = Broken(), Counter("fine", 2, log)
    thread.attach(broken)
    thread.attach(fine)
    assert await asyncio.to_thread(fine.done.wait, 10)
    assert "escaped" in caplog.text


async def test_a_thread_in_an_endless_call_is_not_well(thread: InferenceThread) -> None:
    await thread.submit(lambda: None)
    assert thread.is_well()
    begun, hold = threading.Event(), threading.Event()

    def stick() -> None:
        begun.set()
        hold.wait()

    future = thread.call_soon(stick)
    assert await asyncio.to_thread(begun.wait, 10)
    assert thread.is_well()
    thread._beat -= inference_thread._LONGEST_STEP_SECONDS
    assert not thread.is_well()
    hold.set()
    await asyncio.wrap_future(future)
    await thread.submit(lambda: None)
    assert thread.is_well()


def test_a_closed_thread_takes_nothing_more() -> None:
    thread = InferenceThread("test")
    thread.close()
    with pytest.raises(RuntimeError, match="closed"):
        thread.call_soon(lambda: None)
    assert not thread.is_well()

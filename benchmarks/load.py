"""Many streams at once, from a process of its own, so that reading answers never waits for whoever asks for figures."""

import asyncio
import multiprocessing
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import uvloop

from benchmarks.streaming import Answer, Exchange, RequestFailed, chat_request

# Headers, the role and two pieces of text have come: this stream decodes.
UNDER_WAY = 4
TIMEOUT_SECONDS = 300.0
PAUSE_SECONDS = (0.1, 0.2)
"""Of many lengths, the same for everybody: equal ones meet a server always at the same point of its steps."""
_PAUSES_SEED = 20

Body = dict[str, object]


@dataclass(frozen=True, slots=True)
class Intrusion:
    """Answers to short questions while other streams decoded, and the arrivals of those others, each in order."""

    answers: tuple[Answer, ...]
    others: tuple[tuple[float, ...], ...]


class LoadGenerator:
    """Runs bursts against one base URL (`http://host:port/v1`) within a `with` block."""

    def __init__(self, base_url: str) -> None:
        """Raises ValueError for an address that it cannot speak to."""
        parts = urlsplit(base_url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"{base_url} is not an http:// address")
        self._url = base_url
        # spawn: a fork would share this process's threads' locks and sockets.
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def __enter__(self) -> Self:
        """Nothing starts before the first burst."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process."""
        self._pool.shutdown()

    def burst(self, bodies: Sequence[Body]) -> list[Answer]:
        """Send all at the same time; returns when every answer is over. Raises RequestFailed."""
        return self._pool.submit(_run_burst, self._url, bodies).result()

    def intrude(self, background: Sequence[Body], questions: Sequence[Body]) -> Intrusion:
        """Ask one question after the other while `background` is being answered; those who remain are left then.

        Questions asked after a stream of the background ended are not counted. Raises RequestFailed.
        """
        return self._pool.submit(_run_intrusion, self._url, background, questions).result()


def _run_burst(url: str, bodies: Sequence[Body]) -> list[Answer]:
    async def run() -> list[Answer]:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            exchanges = await asyncio.gather(*(_open(url, body) for body in bodies))
            for exchange in exchanges:
                await exchange.closed.wait()
        return [exchange.answer() for exchange in exchanges]

    return uvloop.run(run())


def _run_intrusion(url: str, background: Sequence[Body], questions: Sequence[Body]) -> Intrusion:
    async def run() -> Intrusion:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            others = await asyncio.gather(*(_open(url, body) for body in background))
            for other in others:
                await other.under_way.wait()
            answers = []
            pauses = random.Random(_PAUSES_SEED)
            for question in questions:
                await asyncio.sleep(pauses.uniform(*PAUSE_SECONDS))
                exchange = await _open(url, question)
                await exchange.closed.wait()
                if any(other.closed.is_set() for other in others):
                    break
                answers.append(exchange.answer())
            for other in others:
                other.hang_up()
        if not answers:
            raise RequestFailed("the streams of the background ended before a question was answered")
        return Intrusion(tuple(answers), tuple(other.answer(whole=False).arrivals for other in others))

    return uvloop.run(run())


async def _open(url: str, body: Body) -> Exchange:
    parts = urlsplit(url)
    assert parts.hostname is not None
    try:
        _, exchange = await asyncio.get_running_loop().create_connection(
            lambda: Exchange(chat_request(url, body), told_at=UNDER_WAY), parts.hostname, parts.port or 80
        )
    except OSError as error:
        raise RequestFailed(f"no connection to {url}: {error}") from error
    return exchange

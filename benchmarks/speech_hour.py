"""One very long recording beside everything else: memory, answers meanwhile, text beside it, and its end half way."""

import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
import orjson
import psutil

from benchmarks.distribution import percentile
from benchmarks.prober import Prober
from models.speech.options import EngineOptions

MIB = 1 << 20
PROBES_A_SECOND = 10.0
WORDS = 85
"""About a hundred tokens, with the question."""
ASKED_ALONE, ASKED_BESIDE = 9, 15
CANCEL_AT = 0.1
IDLE_SHARE = 0.2
"""Of one core: a process that takes less is idle."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Something measured, and the most that it may be."""

    name: str
    value: float
    most: float
    unit: str = ""

    @property
    def is_met(self) -> bool:
        """Whether it is no more than that."""
        return self.value <= self.most


class MemoryWatch:
    """The most that a process and its children hold while the block runs, above what they held at its start."""

    def __init__(self, pid: int, every: float = 0.2) -> None:
        self._process = psutil.Process(pid)
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.before = self.peak = 0

    def __enter__(self) -> Self:
        """Begin."""
        self.before = self.peak = self._held()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End."""
        self._stop.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        """In bytes."""
        return self.peak - self.before

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self.peak = max(self.peak, self._held())

    def _held(self) -> int:
        held = 0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                held += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return held


class LongFile:
    """A recording on its way through the server, as a stream, in a thread of its own."""

    def __init__(self, url: str, model: str, file: Path) -> None:
        self.request_id = uuid.uuid4().hex
        self.percents: list[int] = []
        self.last: Mapping[str, Any] = {}
        self.failure: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._send, args=(url, model, file), daemon=True)
        self._thread.start()

    def wait_for(self, percent: int) -> None:
        """Until so much is done, or all is over."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_over or bool(self.percents and self.percents[-1] >= percent))

    def join(self) -> Mapping[str, Any]:
        """The last event. Raises what went wrong."""
        self._thread.join()
        if self.failure is not None:
            raise self.failure
        return self.last

    @property
    def is_over(self) -> bool:
        """Whether the last event is there."""
        return self.last.get("type") in ("done", "error") or self.failure is not None

    def _send(self, url: str, model: str, file: Path) -> None:
        try:
            for event in _events(url, model, file, self.request_id):
                with self._changed:
                    self.last = event
                    if event["type"] == "progress" and event["percent"] is not None:
                        self.percents.append(event["percent"])
                    self._changed.notify_all()
        except Exception as error:
            with self._changed:
                self.failure = error
                self._changed.notify_all()


def _events(url: str, model: str, file: Path, request_id: str) -> Iterator[Mapping[str, Any]]:
    form = {"model": model, "language": "en", "stream": "true"}
    with (
        httpx2.Client(base_url=url, timeout=600.0) as client,
        file.open("rb") as data,
        client.stream(
            "POST", "/transcribe", data=form, files={"file": data}, headers={"X-Request-ID": request_id}
        ) as answer,
    ):
        answer.raise_for_status()
        for line in answer.iter_lines():
            if line.startswith("data: "):
                event: Mapping[str, Any] = orjson.loads(line[6:])
                yield event


def first_token_seconds(client: httpx2.Client, model: str) -> float:
    """How long a text model takes to its first token, for a prompt that it has not seen."""
    prompt = f"{uuid.uuid4().hex}: " + " ".join(f"word{number % 10}" for number in range(WORDS)) + ". What comes next?"
    body = {"model": model, "prompt": prompt, "raw": True, "stream": True, "max_tokens": 2}
    started = time.monotonic()
    with client.stream("POST", "/generate", json=body) as answer:
        answer.raise_for_status()
        for _line in answer.iter_lines():
            return time.monotonic() - started
    raise RuntimeError("the text model gave no token")


@contextmanager
def probing(url: str) -> Iterator[Callable[[], Mapping[str, Sequence[float]]]]:
    """Ask /health and /queue/status all the time; the call ends it and gives the seconds of each answer."""
    with (
        Prober(f"{url}/health", PROBES_A_SECOND) as health,
        Prober(f"{url}/queue/status", PROBES_A_SECOND) as queue,
    ):
        yield lambda: {
            "/health": [probe.seconds for probe in health.stop()],
            "/queue/status": [probe.seconds for probe in queue.stop()],
        }


def measure(url: str, pid: int, model: str, text_model: str, file: Path, name: str) -> list[Figure]:
    """All figures of `file`. The models are loaded and warm. Raises httpx2.HTTPError, RuntimeError."""
    with httpx2.Client(base_url=url, timeout=600.0) as client:
        first_token_seconds(client, text_model)
        alone = statistics.median(first_token_seconds(client, text_model) for _ in range(ASKED_ALONE))
        with MemoryWatch(pid) as memory, probing(url) as probed:
            long = LongFile(url, model, file)
            long.wait_for(1)
            beside = statistics.median(first_token_seconds(client, text_model) for _ in range(ASKED_BESIDE))
            last = long.join()
            answered = probed()
        if last["type"] != "done" or long.percents != sorted(long.percents) or long.percents[-1] != 100:
            raise RuntimeError(f"{name} did not come to its end as it should: {last}, {long.percents[-3:]}")
        return [
            Figure(f"{name}: peak memory growth, children included", memory.growth / MIB, 600.0, "MiB"),
            *(
                Figure(f"{path} meanwhile, p99", percentile(sorted(seconds), 99) * 1000, 50.0, "ms")
                for path, seconds in answered.items()
            ),
            Figure("text to first token beside it ÷ alone", beside / alone, 1.2),
            cancelled(client, url, pid, model, file),
        ]


def cancelled(client: httpx2.Client, url: str, pid: int, model: str, file: Path) -> Figure:
    """How long the device works on after a cancel at a tenth of `file`, in batches."""
    long = LongFile(url, model, file)
    long.wait_for(int(100 * CANCEL_AT))
    speech = client.get("/queue/status").json()["speech"]
    seconds_a_row = EngineOptions().on("cpu", free_bytes=0).window_seconds
    batch_seconds = speech["last_batch_rows"] * seconds_a_row / speech["real_time_factor"]
    client.post(f"/queue/cancel/{long.request_id}").raise_for_status()
    began = time.monotonic()
    idle_at = _idle_at(psutil.Process(pid))
    last = long.join()
    queue = client.get("/queue/status").json()["speech"]
    if last.get("code") != "request_cancelled" or queue["active_requests"] or queue["waiting_windows"]:
        raise RuntimeError(f"the cancel left something behind: {last}, {queue}")
    return Figure("cancel at 10 % → device idle, in batches", max(0.0, idle_at - began) / batch_seconds, 1.0)


def _idle_at(process: psutil.Process, step: float = 0.1, quiet_steps: int = 3) -> float:
    """When the process began to do nothing (monotonic seconds)."""
    since, quiet = time.monotonic(), 0
    spent = sum(process.cpu_times()[:2])
    while quiet < quiet_steps:
        time.sleep(step)
        now = sum(process.cpu_times()[:2])
        if now - spent < IDLE_SHARE * step:
            quiet += 1
        else:
            quiet, since = 0, time.monotonic()
        spent = now
    return since

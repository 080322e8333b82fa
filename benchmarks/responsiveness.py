"""How long `/health` takes while the server is idle, loads, generates and transcribes.

    python -m benchmarks.responsiveness [--seconds 8] [--json] [--check]

A server is started for it. The bar: 99 of 100 answers within 50 ms, whatever else goes on.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx2

from benchmarks.distribution import Distribution, distribution
from benchmarks.prober import Probe, Prober
from benchmarks.server import Server
from benchmarks.table import table

TEXT_MODEL = "qwen2.5-coder:0.5b"
SPEECH_MODEL = "whisper:base"
CLIP = Path(__file__).parent.parent / "tests" / "data" / "audio" / "jfk.wav"
PROMPT = "Write a long story about a lighthouse keeper who learns to talk with whales."
RATE = 50.0
BAR_MS = 50.0
SETTLE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Row:
    """One phase: what went on, how much of it was done, and how `/health` fared meanwhile."""

    phase: str
    done: str
    health_ms: Distribution
    failed: int

    @property
    def passes(self) -> bool:
        """Whether the bar holds."""
        return self.health_ms.p99 <= BAR_MS and not self.failed


class Work:
    """What keeps the server busy. Each method works for some seconds and says what it did."""

    def __init__(self, url: str) -> None:
        self._client = httpx2.Client(base_url=url, timeout=120.0)

    def idle(self, seconds: float) -> str:
        """Do nothing."""
        time.sleep(seconds)
        return "nothing"

    def load(self, model: str, seconds: float) -> str:
        """Take the model out and load it, again and again; in the end it stays."""
        loads = 0
        end = time.monotonic() + seconds
        while loads == 0 or time.monotonic() < end:
            self._post("/unload-model", {"model_id": model})
            self._post("/load-model", {"model_id": model})
            loads += 1
        return f"{loads} x {model}"

    def generate(self, seconds: float, streams: int) -> str:
        """Stream answers on several connections at once."""
        stop = threading.Event()
        with ThreadPoolExecutor(streams) as pool:
            counts = [pool.submit(self._stream, stop) for _ in range(streams)]
            time.sleep(seconds)
            stop.set()
            return f"{sum(count.result() for count in counts)} chunks"

    def _stream(self, stop: threading.Event) -> int:
        chunks = 0
        body = {"model": TEXT_MODEL, "prompt": PROMPT, "stream": True, "max_tokens": 256}
        while not stop.is_set():
            with self._client.stream("POST", "/generate", json=body) as answer:
                answer.raise_for_status()
                for _ in answer.iter_lines():
                    chunks += 1
                    if stop.is_set():
                        break
        return chunks

    def transcribe(self, seconds: float) -> str:
        """Have the clip written down again and again."""
        clips = 0
        end = time.monotonic() + seconds
        while clips == 0 or time.monotonic() < end:
            answer = self._client.post("/transcribe", files={"file": CLIP.read_bytes()})
            answer.raise_for_status()
            clips += 1
        return f"{clips} x {CLIP.name}"

    def _post(self, path: str, body: dict[str, str]) -> None:
        self._client.post(path, json=body).raise_for_status()


def measure(url: str, seconds: float) -> list[Row]:
    """Every phase in turn, about `seconds` each, with one prober all the time."""
    work = Work(url)
    phases: list[tuple[str, Callable[[], str]]] = [
        ("idle", lambda: work.idle(seconds)),
        ("loading text", lambda: work.load(TEXT_MODEL, seconds)),
        ("loading speech", lambda: work.load(SPEECH_MODEL, seconds)),
        ("generating, 1 stream", lambda: work.generate(seconds, 1)),
        ("generating, 4 streams", lambda: work.generate(seconds, 4)),
        ("transcribing", lambda: work.transcribe(seconds)),
    ]
    spans: list[tuple[str, str, float, float]] = []
    with Prober(url + "/health", RATE) as prober:
        for phase, busy in phases:
            time.sleep(SETTLE_SECONDS)
            began = time.monotonic()
            done = busy()
            spans.append((phase, done, began, time.monotonic()))
        probes = prober.stop()
    return [
        row(phase, done, [probe for probe in probes if began <= probe.at < end]) for phase, done, began, end in spans
    ]


def row(phase: str, done: str, probes: Sequence[Probe]) -> Row:
    """The figures of one phase."""
    return Row(phase, done, distribution([probe.seconds for probe in probes]), sum(not probe.ok for probe in probes))


def render(rows: Sequence[Row]) -> str:
    """The table and the verdict."""
    headings = ["while", "done meanwhile", "probes", "failed", "p50 ms", "p99 ms", "max ms", ""]
    cells = [
        [
            one.phase,
            one.done,
            str(one.health_ms.count),
            str(one.failed),
            f"{one.health_ms.p50:.1f}",
            f"{one.health_ms.p99:.1f}",
            f"{one.health_ms.longest:.1f}",
            "ok" if one.passes else "MISSED",
        ]
        for one in rows
    ]
    bar = f"GET /health, {RATE:.0f} times a second; the bar is p99 <= {BAR_MS:.0f} ms in every row."
    return f"{bar}\n\n{table(headings, cells)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 when the bar is missed and `--check` was given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.responsiveness", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="least length of each of the six phases (default 8)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--check", action="store_true", help="exit with 1 when the bar is missed")
    options = parser.parse_args(arguments)
    load_before = os.getloadavg()[0]
    with Server() as server:
        rows = measure(server.url, options.seconds)
    if options.json:
        figures = [{**asdict(one), "passes": one.passes} for one in rows]
        print(json.dumps({"bar_ms": BAR_MS, "load_average_before": load_before, "rows": figures}, indent=2))
    else:
        print(f"{render(rows)}\n\n{os.cpu_count()} cores; load average before the start: {load_before:.1f}")
    return 1 if options.check and not all(one.passes for one in rows) else 0


if __name__ == "__main__":
    sys.exit(main())

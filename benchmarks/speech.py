"""How quickly speech is written down: one long recording, many clips at once, one clip, against faster-whisper.

    python -m benchmarks.speech [--quick] [--audio FOLDER] [--model whisper:base]

A server is started for it and driven over HTTP; faster-whisper's two recognisers run in a process of their own, over
the same weights, with the same arithmetic, threads, beam and language. Rounds alternate and the best of each counts;
only ratios bind. Give this machine to the benchmark alone.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.distribution import percentile
from benchmarks.prober import Prober
from benchmarks.server import Server
from benchmarks.spoken import CLIPS, Joined, error_rate, joined, plain
from benchmarks.table import table
from benchmarks.worker import Worker

MODEL = "whisper:base"
AUDIO = Path(__file__).parents[1] / "tests" / "data" / "audio"
LONG_SECONDS, QUICK_SECONDS = 300.0, 60.0
CLIPS_AT_ONCE = 16
BATCH_SIZES = (4, 8, 16)
PROBES_A_SECOND = 10.0
TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Run:
    """One way to write something down: how long it took, and the share of words that are wrong."""

    seconds: float
    errors: float


@dataclass(frozen=True, slots=True)
class Bar:
    """What was compared; a ratio of peer's to our seconds, and what it has to be."""

    name: str
    ours: Run
    peer: Run
    least: float

    @property
    def ratio(self) -> float:
        """How many times quicker Ingle is."""
        return self.peer.seconds / self.ours.seconds

    @property
    def is_met(self) -> bool:
        """Whether Ingle is quick enough and no worse; two words in 600 are noise."""
        return self.ratio >= self.least and self.ours.errors <= self.peer.errors + 2 / 600


class Ingle:
    """The server, as a client sees it."""

    def __init__(self, url: str, model: str) -> None:
        self._client = httpx2.Client(base_url=url, timeout=TIMEOUT_SECONDS)
        self._model = model
        self.last: dict[str, Any] = {}

    def hear(self, file: Path, **wishes: str) -> str:
        """The text of `file`. Raises httpx2.HTTPError."""
        with file.open("rb") as data:
            response = self._client.post("/transcribe", data={"model": self._model, **wishes}, files={"file": data})
        response.raise_for_status()
        self.last = response.json()
        return str(self.last["text"])

    def hear_at_once(self, files: Sequence[Path], **wishes: str) -> list[str]:
        """The texts of `files`, all sent at the same moment."""
        with ThreadPoolExecutor(len(files)) as senders:
            return list(senders.map(lambda file: self.hear(file, **wishes), files))


def best(rounds: int, measure: Sequence[Callable[[], Run]]) -> list[Run]:
    """The quickest run of each, taken in turns."""
    runs = [[one() for one in measure] for _ in range(rounds)]
    return [min(own, key=lambda run: run.seconds) for own in zip(*runs, strict=True)]


def timed(hear: Callable[[], Sequence[str]], texts: Sequence[str]) -> Run:
    """A run of ours."""
    started = time.monotonic()
    heard = hear()
    return Run(time.monotonic() - started, error_rate(texts, heard))


def peer_run(worker: Worker, texts: Sequence[str], **question: Any) -> Run:
    """A run of a peer."""
    answer = worker.ask(**question)
    return Run(answer["seconds"], error_rate(texts, answer["texts"]))


def measure(ingle: Ingle, worker: Worker, folder: Path, audio: Path, model: str, *, quick: bool) -> list[Bar]:
    """All bars. Raises httpx2.HTTPError, WorkerFailed."""
    rounds = 1 if quick else 3
    long = joined(audio, QUICK_SECONDS if quick else LONG_SECONDS)
    file = long.flac(folder / "long.flac")
    clips = [audio / name for name in CLIPS]
    ingle.hear(clips[0])
    arithmetic = {"model": model, "compute_type": str(ingle.last["compute_type"])}
    worker.ask(do="sequential", files=[str(clips[0])], language=None, timestamps=True, **arithmetic)
    return [
        *_long_bars(ingle, worker, file, long, rounds, arithmetic, quick=quick),
        *_clip_bars(ingle, worker, clips, rounds, arithmetic),
    ]


def _long_bars(
    ingle: Ingle, worker: Worker, file: Path, long: Joined, rounds: int, arithmetic: dict[str, str], *, quick: bool
) -> list[Bar]:
    bars = []
    for name, timestamps in (("long file, text", False), ("long file, segments", True)):
        wishes = {"language": "en", "include_segments": str(timestamps).lower()}

        question: dict[str, Any] = {
            "do": "batched",
            "files": [str(file)],
            "language": "en",
            "timestamps": timestamps,
            **arithmetic,
        }
        ours = partial(timed, partial(ingle.hear_at_once, [file], **wishes), [long.text])
        sizes = BATCH_SIZES[1:2] if quick else BATCH_SIZES
        peers = [partial(peer_run, worker, [long.text], batch_size=size, **question) for size in sizes]
        own, *others = best(rounds, [ours, *peers])
        bars.append(Bar(name, own, min(others, key=lambda run: run.seconds), 1.0))
    return bars


def _clip_bars(
    ingle: Ingle, worker: Worker, clips: Sequence[Path], rounds: int, arithmetic: dict[str, str]
) -> list[Bar]:
    bars = []
    many = [clips[number % len(clips)] for number in range(CLIPS_AT_ONCE)]
    for name, files, least in ((f"{CLIPS_AT_ONCE} clips at once", many, 2.5), ("one 3-s clip", clips[2:3], 1 / 0.6)):
        texts = [plain(CLIPS[file.name]) for file in files]
        question: dict[str, Any] = {
            "do": "sequential",
            "files": list(map(str, files)),
            "language": None,
            "timestamps": True,
        }
        ours = partial(timed, partial(ingle.hear_at_once, files), texts)
        theirs = partial(peer_run, worker, texts, **question, **arithmetic)
        own, peer = best(rounds, [ours, theirs])
        bars.append(Bar(name, own, peer, least))
    return bars


def render(bars: Sequence[Bar], health: Sequence[float]) -> str:
    """The table, and how the server answered meanwhile."""
    rows = [
        [
            bar.name,
            f"{bar.ours.seconds:.2f}",
            f"{bar.peer.seconds:.2f}",
            f"{bar.ratio:.2f}",
            f"{bar.least:.2f}",
            f"{bar.ours.errors:.3f}",
            f"{bar.peer.errors:.3f}",
            "yes" if bar.is_met else "NO",
        ]
        for bar in bars
    ]
    headings = ["", "Ingle s", "peer s", "ratio", "at least", "errors", "peer's", "met"]
    answered = percentile(sorted(health), 99) * 1000 if health else float("nan")
    return f"{table(headings, rows)}\n\n/health meanwhile, p99: {answered:.0f} ms"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round, one minute of speech")
    parser.add_argument("--audio", type=Path, default=AUDIO, help="the folder of the clips")
    parser.add_argument("--model", default=MODEL)
    chosen = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as folder,
        Server("--preload", chosen.model) as server,
        Worker("benchmarks.speech_peers") as worker,
        Prober(f"{server.url}/health", PROBES_A_SECOND) as prober,
    ):
        ingle = Ingle(server.url, chosen.model)
        bars = measure(ingle, worker, Path(folder), chosen.audio, chosen.model, quick=chosen.quick)
        health = [probe.seconds for probe in prober.stop()]
    sys.stdout.write(render(bars, health) + "\n")
    return 0 if all(bar.is_met for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())

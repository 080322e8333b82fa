"""How quickly speech is written down: one long recording, many clips at once, one clip, against faster-whisper.

    python -m benchmarks.speech [--quick] [--part all|peers|hour] [--audio FOLDER] [--model whisper:base]

A server is started for it and driven over HTTP; faster-whisper's two recognisers run in a process of their own, over
the same weights, with the same arithmetic, threads, beam and language. Rounds alternate and the best of each counts;
only ratios bind. The part `hour` sends an hour of speech and looks at memory, at other answers meanwhile, at text
beside it, and at a cancel. Give this machine to the benchmark alone.
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
import srt  # type: ignore[import-untyped]

from benchmarks import speech_hour
from benchmarks.distribution import percentile
from benchmarks.prober import Prober
from benchmarks.server import Server
from benchmarks.speech_hour import Figure
from benchmarks.spoken import CLIPS, Joined, error_rate, joined, plain
from benchmarks.table import table
from benchmarks.worker import Worker

MODEL = "whisper:base"
AUDIO = Path(__file__).parents[1] / "tests" / "data" / "audio"
TEXT_MODEL = "qwen2.5-coder:0.5b"
LONG_SECONDS, QUICK_SECONDS = 300.0, 60.0
HOUR_SECONDS, QUICK_HOUR_SECONDS = 3600.0, 240.0
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
        if wishes.get("response_format") == "srt":
            return " ".join(cue.content for cue in srt.parse(response.text))
        self.last = response.json()
        return str(self.last["text"])

    def redone(self, file: Path) -> float:
        """The share of the windows of `file` that the guard has heard again."""
        self.hear(file, language="en", response_format="verbose_json")
        windows = {segment["seek"] for segment in self.last["segments"]}
        redone = sum(one["count"] for one in self.last["warnings"] if one["code"] == "windows_redone")
        return float(redone / len(windows))

    def load(self) -> float:
        """Seconds that the model took to come into memory."""
        self._client.post("/unload-model", json={"model": self._model}).raise_for_status()
        answer = self._client.post("/load-model", json={"model": self._model, "keep_alive": -1})
        answer.raise_for_status()
        return float(answer.json()["load_time_ms"]) / 1000

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


def measure(
    ingle: Ingle, worker: Worker, folder: Path, audio: Path, model: str, *, quick: bool
) -> tuple[list[Bar], list[Figure], str]:
    """All bars against the peers, the share of windows that are heard again, and what was measured, in words.

    Raises httpx2.HTTPError, WorkerFailed.
    """
    rounds = 1 if quick else 3
    long = joined(audio, QUICK_SECONDS if quick else LONG_SECONDS)
    file = long.flac(folder / "long.flac")
    clips = [audio / name for name in CLIPS]
    loading = ingle.load()
    cold = timed(partial(ingle.hear_at_once, clips[:1]), [CLIPS[clips[0].name]])
    arithmetic = {"model": model, "compute_type": str(ingle.last["compute_type"])}
    worker.ask(do="sequential", files=[str(clips[0])], language=None, timestamps=True, **arithmetic)
    warm = timed(partial(ingle.hear_at_once, clips[:1]), [CLIPS[clips[0].name]])
    bars = [
        *_long_bars(ingle, worker, file, long, rounds, arithmetic, quick=quick),
        *_clip_bars(ingle, worker, clips, rounds, arithmetic),
    ]
    redone = ingle.redone(file)
    last = ingle.last
    heard = (
        f"{model} in {last['compute_type']} on {last['device']}: loaded in {loading:.2f} s; {clips[0].name} cold "
        f"{cold.seconds:.2f} s, warm {warm.seconds:.2f} s; the long file has {last['duration']:.0f} s, of which "
        f"{last['duration_after_vad']:.0f} s are speech, in {len(long.text.split())} words"
    )
    return bars, [Figure("windows that the guard has heard again, of clean speech", redone, 0.1)], heard


def _long_bars(
    ingle: Ingle, worker: Worker, file: Path, long: Joined, rounds: int, arithmetic: dict[str, str], *, quick: bool
) -> list[Bar]:
    bars = []
    for name, timestamps in (("long file, text", False), ("long file, srt", True)):
        wishes = {"language": "en", "response_format": "srt" if timestamps else "json"}
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
    """The table against the peers, and how the server answered meanwhile."""
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


def render_figures(figures: Sequence[Figure]) -> str:
    """The table of what has an upper bound."""
    rows = [[one.name, f"{one.value:.2f}", f"{one.most:g}", one.unit, "yes" if one.is_met else "NO"] for one in figures]
    return table(["", "measured", "at most", "unit", "met"], rows)


def against_peers(server: Server, chosen: argparse.Namespace, folder: Path) -> bool:
    """Measure and print; whether every bar is met."""
    with (
        Worker("benchmarks.speech_peers") as worker,
        Prober(f"{server.url}/health", PROBES_A_SECOND) as prober,
    ):
        bars, figures, heard = measure(
            Ingle(server.url, chosen.model), worker, folder, chosen.audio, chosen.model, quick=chosen.quick
        )
        health = [probe.seconds for probe in prober.stop()]
    sys.stdout.write(f"{heard}\n\n{render(bars, health)}\n\n{render_figures(figures)}\n\n")
    sys.stdout.flush()
    return all(bar.is_met for bar in bars) and all(figure.is_met for figure in figures)


def very_long(server: Server, chosen: argparse.Namespace, folder: Path) -> bool:
    """The same of an hour in one file."""
    seconds = QUICK_HOUR_SECONDS if chosen.quick else HOUR_SECONDS
    file = joined(chosen.audio, seconds).flac(folder / "hour.flac")
    ingle = Ingle(server.url, chosen.model)
    ingle.load()
    ingle.hear_at_once([chosen.audio / name for name in CLIPS])
    figures = speech_hour.measure(
        server.url, server.pid, chosen.model, chosen.text_model, file, f"{seconds / 60:.0f} minutes"
    )
    sys.stdout.write(render_figures(figures) + "\n")
    return all(figure.is_met for figure in figures)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a bar is missed and `--check` was given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round, a minute of speech, and four for an hour")
    parser.add_argument("--part", choices=("all", "peers", "hour"), default="all")
    parser.add_argument("--audio", type=Path, default=AUDIO, help="the folder of the clips")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--text-model", default=TEXT_MODEL, help="what writes beside the hour")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a bar is missed")
    chosen = parser.parse_args(arguments)
    parts = {"peers": (against_peers,), "hour": (very_long,), "all": (against_peers, very_long)}[chosen.part]
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        met = [part(server, chosen, Path(folder)) for part in parts]
    return 1 if chosen.check and not all(met) else 0


if __name__ == "__main__":
    sys.exit(main())

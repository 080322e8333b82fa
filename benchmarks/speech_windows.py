"""How much speech a window should hold: wrong words and seconds for several lengths, and for faster-whisper's batches.

    python -m benchmarks.speech_windows [--seconds 19 22 26] [--recordings 8] [--json]

Each recording is five minutes of the clips in an order and with pauses of its own, heard with and without times. One
recording says little: a single sentence that is left out or said twice is more than all the words misheard besides.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.server import Server
from benchmarks.speech import AUDIO, LONG_SECONDS, MODEL, Ingle, Run, peer_run, timed
from benchmarks.spoken import Joined, joined
from benchmarks.table import table
from benchmarks.worker import Worker

SECONDS = (19.0, 22.0, 26.0, 29.0)
RECORDINGS = 8
PEER_BATCH = 8

Hear = Callable[[Path, Joined, bool], Run]


@dataclass(frozen=True, slots=True)
class Row:
    """All recordings with one length of windows: wrong words and seconds, for plain text and with times."""

    name: str
    words: int
    text_wrong: int
    text_seconds: float
    timed_wrong: int
    timed_seconds: float


def row(name: str, recordings: Sequence[tuple[Path, Joined]], hear: Hear) -> Row:
    """Hear them all, one after the other."""
    words = [len(recording.text.split()) for _, recording in recordings]

    def heard(times: bool) -> tuple[int, float]:
        runs = [hear(file, recording, times) for file, recording in recordings]
        wrong = sum(round(run.errors * count) for run, count in zip(runs, words, strict=True))
        return wrong, sum(run.seconds for run in runs)

    return Row(name, sum(words), *heard(False), *heard(True))


def measure(folder: Path, seconds: Sequence[float], count: int) -> list[Row]:
    """A row for each length, each with a server of its own, and one for the peer. Raises what these raise."""
    made = [joined(AUDIO, LONG_SECONDS, shuffle=seed) for seed in range(count)]
    recordings = [(one.flac(folder / f"{seed}.flac"), one) for seed, one in enumerate(made)]
    rows = []
    compute_type = ""
    for length in seconds:
        with Server(environment={**os.environ, "INGLE_SPEECH_WINDOW_SECONDS": str(length)}) as server:
            ingle = Ingle(server.url, MODEL)
            ingle.load()

            def hear(file: Path, recording: Joined, times: bool, ingle: Ingle = ingle) -> Run:
                form = "verbose_json" if times else "json"
                return timed(lambda: [ingle.hear(file, language="en", response_format=form)], [recording.text])

            rows.append(row(f"windows of {length:g} s", recordings, hear))
            compute_type = str(ingle.last.get("compute_type", compute_type))
    with Worker("benchmarks.speech_peers") as worker:

        def ask(file: Path, recording: Joined, times: bool) -> Run:
            return peer_run(
                worker, [recording.text], do="batched", files=[str(file)], language="en", timestamps=times,
                batch_size=PEER_BATCH, model=MODEL, compute_type=compute_type,
            )  # fmt: skip

        rows.append(row(f"faster-whisper, batches of {PEER_BATCH}", recordings, ask))
    return rows


def render(rows: Sequence[Row], count: int) -> str:
    """The table."""
    cells = [
        [one.name, str(one.text_wrong), f"{one.text_seconds:.1f}", str(one.timed_wrong), f"{one.timed_seconds:.1f}"]
        for one in rows
    ]
    headings = ["", "text: wrong words", "seconds", "with times: wrong words", "seconds"]
    return f"{count} recordings of five minutes, {rows[0].words:,} words\n\n{table(headings, cells)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=SECONDS, help="lengths of windows")
    parser.add_argument("--recordings", type=int, default=RECORDINGS)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), chosen.seconds, chosen.recordings)
    print(json.dumps([asdict(one) for one in rows], indent=2) if chosen.json else render(rows, chosen.recordings))
    return 0


if __name__ == "__main__":
    sys.exit(main())

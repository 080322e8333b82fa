"""Known speech of any length: the clips of tests/data/audio, joined with gaps of faint noise."""

import re
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import jiwer
import numpy as np
import numpy.typing as npt

RATE = 16_000
_AUSTEN = "sense_and_sensibility_01_austen_64kb-{}.wav"
CLIPS = {
    "jfk.wav": "And so my fellow Americans, ask not what your country can do for you, ask what you can do for your "
    "country.",
    _AUSTEN.format(
        "0870"
    ): "and mister john dashwood had then leisure to consider how much there might be prudently in "
    "his power to do for them",
    _AUSTEN.format("0880"): "he was not an ill disposed young man",
    _AUSTEN.format("0890"): "unless to be rather cold hearted and rather selfish is to be ill disposed",
    _AUSTEN.format("0920"): "had he married a more amiable woman he might have been made still more respectable than "
    "he was",
    _AUSTEN.format("0930"): "he might even have been made amiable himself",
}
"""Texts by file name."""


def plain(text: str) -> str:
    """As error rates are counted: lower case, no hyphens, no punctuation, `mr` is `mister`."""
    words = re.sub(r"[^\w\s]", "", text.lower().replace("-", " ")).split()
    return " ".join("mister" if word == "mr" else word for word in words)


@dataclass(frozen=True)
class Joined:
    """Samples (16 kHz, mono), where each clip begins in seconds, and what is said in each."""

    samples: npt.NDArray[np.int16]
    offsets: Sequence[float]
    texts: Sequence[str]

    @property
    def text(self) -> str:
        """All that is said, plain."""
        return " ".join(map(plain, self.texts))

    def flac(self, path: Path) -> Path:
        """Written to `path`."""
        with av.open(path, "w", format="flac") as output:
            stream = output.add_stream("flac", rate=RATE, layout="mono")
            for first in range(0, len(self.samples), RATE * 10):
                frame = av.AudioFrame.from_ndarray(self.samples[None, first : first + RATE * 10], "s16", "mono")
                frame.sample_rate, frame.pts = RATE, first
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        return path


def joined(folder: Path, seconds: float, *, shuffle: int | None = None) -> Joined:
    """The clips of `folder`, one to three seconds of noise between them, for at least `seconds`.

    They come in order, or each time round in an order that the seed `shuffle` decides, as it does the pauses.
    """
    noise = np.random.default_rng(20 if shuffle is None else shuffle)
    order = list(CLIPS.items())
    parts: list[npt.NDArray[np.int16]] = []
    offsets: list[float] = []
    texts: list[str] = []
    length = 0
    while length < seconds * RATE:
        place = len(texts) % len(order)
        if place == 0 and shuffle is not None:
            order = [order[number] for number in noise.permutation(len(order))]
        name, text = order[place]
        with wave.open(str(folder / name)) as file:
            clip = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        gap = noise.normal(0, 10, int(noise.uniform(1, 3) * RATE)).astype(np.int16)
        offsets.append(length / RATE)
        texts.append(text)
        parts += [clip, gap]
        length += len(clip) + len(gap)
    return Joined(np.concatenate(parts), offsets, texts)


def error_rate(texts: Sequence[str], heard: Sequence[str]) -> float:
    """The share of the words of `texts` that `heard` has wrong."""
    return float(jiwer.wer(list(map(plain, texts)), list(map(plain, heard))))

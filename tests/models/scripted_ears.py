"""Ears that hear what the test wants, and a recording whose sound says where it was taken from."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from domain.transcription import SpeechTask
from models.speech.flow import BatchKey
from models.speech.guard import Decoded, Piece
from models.speech.segments import SpokenWord
from models.speech.whisper import Sound

RATE = 16_000


def counting(seconds: int, first: int = 1) -> npt.NDArray[np.int16]:
    """Samples that tell the second they are in: `first` in the first one, and so on."""
    return np.repeat(np.arange(first, first + seconds, dtype=np.int16), RATE)


def said(text: str, seconds: float = 1.0, **figures: Any) -> Decoded:
    """A good decoding of `text` in one piece, with a token for every character."""
    pieces = (Piece(0.0, seconds, text, tuple(map(ord, text))),) if text else ()
    decoded = Decoded(pieces, len(text), avg_logprob=-0.2, no_speech_prob=0.0, last_time=seconds)
    return replace(decoded, **figures)


@dataclass(frozen=True)
class Asked:
    """One row of one call of `decode`: the second its sound is from, and how it was to be decoded."""

    second: int
    prompt: str
    language: str
    task: SpeechTask
    seconds: float
    key: BatchKey


@dataclass
class ScriptedEars:
    """Implements `models.speech.whisper.Ears`. Text is its characters' code points.

    `answer` gives what a row says, by default its prompt and its second; it may raise. A call of `encode` waits
    while `gate` is shut; `at_gate` counts those that came there. `encoded` keeps the seconds and the frames of each.
    """

    answer: Callable[[Asked], Decoded] = lambda asked: said(f" {asked.prompt}{asked.second}", asked.seconds)
    language: Callable[[int], Mapping[str, float]] = lambda _second: {"en": 0.9, "de": 0.1}
    encoded: list[tuple[list[int], int]] = field(default_factory=list)
    decoded: list[Asked] = field(default_factory=list)
    aligned: list[list[int]] = field(default_factory=list)
    too_many: int = 1000
    gate: threading.Event = field(default_factory=threading.Event)
    at_gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    is_closed: bool = False

    def __post_init__(self) -> None:
        self.gate.set()

    def encode(self, sounds: Sequence[Sound], frames: int) -> list[int]:
        """The second in the middle of each sound, for its encoding."""
        self.at_gate.release()
        self.gate.wait()
        seconds = [round(float(sound[0]) * 32768) for sound in sounds]
        self.encoded.append((seconds, frames))
        if len(sounds) >= self.too_many:
            raise RuntimeError("CUDA failed with error out of memory")
        return seconds

    def languages(self, encoded: list[int], rows: Sequence[int]) -> list[Mapping[str, float]]:
        """As the script says."""
        return [self.language(encoded[row]) for row in rows]

    def decode(
        self,
        encoded: list[int],
        rows: Sequence[int],
        key: BatchKey,
        voices: Sequence[tuple[str, SpeechTask]],
        prompts: Sequence[Sequence[int]],
        seconds: Sequence[float],
    ) -> list[Decoded]:
        """As the script says."""
        assert len({len(prompt) for prompt in prompts}) == 1
        asked = [
            Asked(encoded[row], self.text(prompt).strip(), *voice, length, key)
            for row, voice, prompt, length in zip(rows, voices, prompts, seconds, strict=True)
        ]
        answers = [self.answer(one) for one in asked]
        self.decoded += asked
        return answers

    def align(
        self,
        encoded: list[int],
        rows: Sequence[int],
        voice: tuple[str, SpeechTask],
        said: Sequence[Decoded],
        seconds: Sequence[float],
    ) -> list[list[list[SpokenWord]]]:
        """A word for each piece."""
        assert voice
        assert len(seconds) == len(rows)
        self.aligned.append([encoded[row] for row in rows])
        return [[[SpokenWord(piece.text, piece.start, piece.end, 0.9)] for piece in one.pieces] for one in said]

    def tokens(self, text: str) -> list[int]:
        """Code points."""
        return [ord(char) for char in text]

    def text(self, tokens: Sequence[int]) -> str:
        """Of code points."""
        return "".join(map(chr, tokens))

    def close(self, *, to_host: bool = False) -> None:
        """Remember it."""
        self.is_closed = True

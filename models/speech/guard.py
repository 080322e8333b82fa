"""Whether a decoded window is believed, what is tried when it is not, and what is kept when nothing helps.

Pure: no model, no sound. The gates are those of OpenAI's Whisper, two more that catch lost and invented text, and
the model's limit on the length of a text.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum, auto

from domain.listening import DecodingOptions, GuardOptions

MAX_TEXT_TOKENS = 224
MAX_TOKENS_PER_SECOND = 20
MAX_LOST_SECONDS = 8.0
REDO_BEAM = 5
_LONGEST_PHRASE = 6
_REPETITIONS = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """Text with its times in the window (seconds); `tokens` is empty once the text is no longer the model's."""

    start: float
    end: float
    text: str
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the model makes of a window. `last_time` is its last timestamp, None where it gives none.

    `most_tokens` is what the model can write after this prompt: a text of that length is cut off.
    """

    pieces: tuple[Piece, ...]
    tokens: int
    avg_logprob: float
    no_speech_prob: float
    temperature: float = 0.0
    last_time: float | None = None
    most_tokens: int = MAX_TEXT_TOKENS

    @property
    def text(self) -> str:
        """All of it, raw."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def text_tokens(self) -> int:
        """How many tokens the text has, timestamps not counted."""
        return sum(len(piece.tokens) for piece in self.pieces)

    @property
    def compression_ratio(self) -> float:
        """How well the text compresses: above 2.4 it mostly repeats itself."""
        data = self.text.strip().encode()
        return len(data) / len(zlib.compress(data))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to decode a window; `full_length` pads it to 30 s whatever its length."""

    temperature: float
    beam_size: int
    full_length: bool = False


class Verdict(StrEnum):
    """What becomes of a decoded window."""

    ACCEPT = auto()
    DROP = auto()
    REDO = auto()
    SPLIT = auto()


def verdict_on(decoded: Decoded, seconds: float, options: GuardOptions) -> Verdict:
    """What becomes of `decoded`, heard in a window with `seconds` of speech."""
    if not options.enabled:
        return Verdict.ACCEPT
    if _is_silence(decoded, options):
        return Verdict.DROP
    if decoded.tokens >= decoded.most_tokens:
        return Verdict.SPLIT
    return Verdict.REDO if _is_doubtful(decoded, seconds, options) else Verdict.ACCEPT


def _is_silence(decoded: Decoded, options: GuardOptions) -> bool:
    if options.no_speech_threshold is None or options.log_prob_threshold is None:
        return False
    return decoded.no_speech_prob > options.no_speech_threshold and decoded.avg_logprob < options.log_prob_threshold


def _is_doubtful(decoded: Decoded, seconds: float, options: GuardOptions) -> bool:
    most, least = options.compression_ratio_threshold, options.log_prob_threshold
    return (
        (most is not None and decoded.compression_ratio > most)
        or (least is not None and decoded.avg_logprob < least)
        or decoded.text_tokens > MAX_TOKENS_PER_SECOND * seconds
        or (decoded.last_time is not None and seconds - decoded.last_time > MAX_LOST_SECONDS)
    )


def attempts(options: DecodingOptions) -> Iterator[Attempt]:
    """The ways to decode a window, in the order in which they are tried."""
    first, *warmer = options.temperatures
    yield Attempt(first, options.beam_size if first == 0 else 1)
    if first == 0:
        yield Attempt(0.0, max(options.beam_size, REDO_BEAM), full_length=True)
    for temperature in warmer:
        yield Attempt(temperature, 1, full_length=True)


def best_of(tried: Sequence[Decoded]) -> Decoded:
    """The attempt that the model itself thinks likeliest."""
    return max(tried, key=lambda decoded: decoded.avg_logprob)


def without_repetition(decoded: Decoded) -> Decoded:
    """`decoded` with every phrase of one to six words that comes four times or more in a row left once."""
    pieces: list[Piece] = []
    for piece in decoded.pieces:
        text = _collapsed(piece.text)
        pieces.append(piece if text == piece.text else replace(piece, text=text, tokens=()))
    kept: list[Piece] = []
    index = 0
    while index < len(pieces):
        same = 1
        while index + same < len(pieces) and pieces[index + same].text.strip() == pieces[index].text.strip():
            same += 1
        kept.extend(pieces[index : index + (1 if same >= _REPETITIONS else same)])
        index += same
    return replace(decoded, pieces=tuple(kept))


def _collapsed(text: str) -> str:
    """Phrases are compared by their words; between two words of a script without spaces there is no border."""
    words = text.split(" ")
    for length in range(1, _LONGEST_PHRASE + 1):
        kept: list[str] = []
        index = 0
        while index < len(words):
            phrase = _plain(words[index : index + length])
            times = 1
            while _plain(words[index + times * length : index + (times + 1) * length]) == phrase and any(phrase):
                times += 1
            if times >= _REPETITIONS:
                # The last of them has the punctuation that leads on.
                kept.extend(words[index + (times - 1) * length : index + times * length])
                index += times * length
            else:
                kept.append(words[index])
                index += 1
        words = kept
    return " ".join(words)


def _plain(words: Sequence[str]) -> tuple[str, ...]:
    return tuple("".join(char for char in word.lower() if char.isalnum()) for word in words)

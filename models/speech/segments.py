"""From what the model says of a window to segments of the file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from domain.transcription import Segment, Word
from models.speech.guard import Decoded, Piece
from models.speech.windows import Window

SECONDS_PER_STAMP = 0.02


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word with its times in the window."""

    text: str
    start: float
    end: float
    probability: float


def pieces_of(tokens: Sequence[int], first_stamp: int, seconds: float) -> list[tuple[float, float, tuple[int, ...]]]:
    """(start, end, text tokens) of the stretches that timestamps divide `tokens` into; times within `seconds`.

    Tokens from `first_stamp` on are timestamps. What has no end lasts to the end of the speech.
    """
    pieces: list[tuple[float, float, tuple[int, ...]]] = []
    start, text = 0.0, []
    for token in tokens:
        if token < first_stamp:
            text.append(token)
            continue
        time = min((token - first_stamp) * SECONDS_PER_STAMP, seconds)
        if text:
            pieces.append((start, max(start, time), tuple(text)))
            text = []
        start = max(start, time)
    if text:
        pieces.append((start, max(start, seconds), tuple(text)))
    return pieces


def segments_of(
    window: Window,
    decoded: Decoded,
    words: Sequence[Sequence[SpokenWord]],
    language: str | None = None,
    channel: int | None = None,
) -> list[Segment]:
    """The segments of `decoded` in the file's time; `words` are those of each piece, or nothing at all.

    Their numbers are for the caller to give.
    """
    return [
        _segment(window, decoded, piece, words[index] if words else (), language, channel)
        for index, piece in enumerate(decoded.pieces)
        if piece.text.strip()
    ]


def _segment(
    window: Window,
    decoded: Decoded,
    piece: Piece,
    spoken: Sequence[SpokenWord],
    language: str | None,
    channel: int | None,
) -> Segment:
    start, end = window.file_start(piece.start), window.file_end(piece.end)
    words = []
    for one in spoken:
        begin, stop = window.file_interval(one.start, one.end)
        words.append(Word(one.text, round(begin, 2), round(stop, 2), round(one.probability, 4)))
    if words:
        start, end = words[0].start, words[-1].end
    return Segment(
        id=0,
        start=round(start, 2),
        end=round(max(start, end), 2),
        text=piece.text,
        avg_logprob=decoded.avg_logprob,
        no_speech_prob=decoded.no_speech_prob,
        compression_ratio=decoded.compression_ratio,
        temperature=decoded.temperature,
        words=tuple(words),
        seek=round(window.start * 100),
        tokens=piece.tokens,
        language=language,
        channel=channel,
    )


def in_order(segment: Segment, number: int, earliest: float, latest: float) -> Segment:
    """`segment` as number `number` of the file: no time before `earliest` or after `latest`, none that runs back."""
    start = min(max(segment.start, earliest), latest)
    words = []
    reached = start
    for word in segment.words:
        reached = min(max(word.start, reached), latest)
        words.append(replace(word, start=reached, end=min(max(word.end, reached), latest)))
    return replace(segment, id=number, start=start, end=min(max(segment.end, start), latest), words=tuple(words))

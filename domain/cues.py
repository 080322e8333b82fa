"""How a transcript is cut into cues: pieces of text that are shown together, in lines that can be read."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from domain.cue_options import CueOptions
from domain.transcription import Segment, Transcript

LONG_PAUSE = 0.6
SHORT_PAUSE = 0.2
MIN_CUE_SECONDS = 0.7
MIN_STEP_SECONDS = 0.001
"""Readers of WebVTT want a cue to end after it starts, and files hold whole milliseconds."""

_NO_BREAK_SPACES = "\xa0\u2007\u202f"
_CLOSING_QUOTES = r"[\"'”’»)\]」』）]*$"  # noqa: RUF001
_SENTENCE_END = re.compile(r"[.!?…。！？]" + _CLOSING_QUOTES)  # noqa: RUF001
_CLAUSE_END = re.compile(r"[,;:—–，、；：]" + _CLOSING_QUOTES + r"|^-+$")  # noqa: RUF001
_ABBREVIATION = re.compile(
    r"^\W*(?:(?:mr|mrs|ms|dr|prof|rev|hon|st|jr|sr|gen|col|capt|lt|sgt|vs|etc|vol|fig|cf|approx|\d\d?|[^\W\d_])\.)+$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Spoken:
    """The characters `first` to `stop` of line `line` of a cue, said from `start` to `end`."""

    line: int
    first: int
    stop: int
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Cue:
    """Text that is shown from `start` to `end` (seconds, whole milliseconds), in lines; `text` is all in one.

    `spoken` is when each stretch of its lines is said.
    """

    start: float
    end: float
    lines: tuple[str, ...]
    text: str
    spoken: tuple[Spoken, ...] = ()


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is not broken: a word, or a wide character with the punctuation that clings to it.

    `spaced` tells whether a space stands before it.
    """

    text: str
    spaced: bool
    start: float
    end: float


def cues_of(transcript: Transcript, options: CueOptions) -> Sequence[Cue]:
    """The cues of `transcript`, in order; none overlaps another and none lasts longer than `max_cue_seconds`.

    A segment that fits is a cue. Others are cut by the times of their words or, where there are none, as if
    every column of text took the same time. One word that is too long for a cue has a cue to itself.
    """
    cues = [_cue(pieces, options) for segment in transcript.segments for pieces in _cut(_pieces_of(segment), options)]
    return list(_timed(cues, options.max_cue_seconds, transcript.duration))


def fits_a_cue(segment: Segment, options: CueOptions) -> bool:
    """Whether `segment` may be shown as it is, so that the times of its words are not needed."""
    pieces = _pieces_of(segment)
    return not pieces or _fits(pieces, options)


def _cue(pieces: list[_Piece], options: CueOptions) -> Cue:
    lines = _lines(pieces, options)
    return Cue(
        pieces[0].start,
        pieces[-1].end,
        tuple(_joined(line) for line in lines),
        _joined(pieces),
        tuple(_spoken(lines)) if options.highlight_words else (),
    )


def _spoken(lines: Sequence[Sequence[_Piece]]) -> Iterator[Spoken]:
    for number, line in enumerate(lines):
        column = 0
        for index, piece in enumerate(line):
            column += index > 0 and piece.spaced
            yield Spoken(number, column, column + len(piece.text), piece.start, piece.end)
            column += len(piece.text)


# -- text ---------------------------------------------------------------------------------------------


def is_space(char: str) -> bool:
    """Whether a line may be broken at `char`: white space and line ends of every kind."""
    return char.isspace() and char not in _NO_BREAK_SPACES


def is_control(char: str) -> bool:
    """Whether `char` has no place in a text file: control characters, halves of surrogate pairs."""
    return unicodedata.category(char) in ("Cc", "Cs")


def width(text: str) -> int:
    """Columns that `text` takes on a screen: wide characters two, marks upon others none."""
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _breaks_between(before: str, after: str) -> bool:
    """Whether two neighbours without a space may be parted: beside a wide character, but not from punctuation."""
    if _columns(after) == 0 or 2 not in (_columns(before), _columns(after)):
        return False
    return unicodedata.category(after) not in ("Pe", "Pf", "Po", "Lm") and unicodedata.category(before) not in (
        "Ps",
        "Pi",
    )


def _pieces_of(segment: Segment) -> list[_Piece]:
    spoken = [(word.text, word.start, word.end) for word in segment.words]
    pieces: list[_Piece] = []
    spaced = False
    before = ""
    for text, start, end in spoken or [(segment.text, segment.start, segment.end)]:
        seen = [char for char in text if not is_control(char) or is_space(char)]
        total = max(1, sum(_columns(char) for char in seen if not is_space(char)))
        passed = 0
        for char in seen:
            if is_space(char):
                spaced, before = True, ""
                continue
            begins = start + (end - start) * passed / total
            passed += _columns(char)
            ends = start + (end - start) * passed / total
            if not pieces or spaced or _breaks_between(before, char):
                pieces.append(_Piece(char, spaced, begins, ends))
            else:
                pieces[-1] = replace(pieces[-1], text=pieces[-1].text + char, end=ends)
            spaced, before = False, char
    return [replace(piece, text=piece.text.replace("-->", "→")) for piece in pieces]


def _joined(pieces: Sequence[_Piece]) -> str:
    return "".join(" " * (index > 0 and piece.spaced) + piece.text for index, piece in enumerate(pieces))


# -- where to cut -------------------------------------------------------------------------------------


def _cut(pieces: list[_Piece], options: CueOptions) -> Iterator[list[_Piece]]:
    first = 0
    while first < len(pieces):
        stop = first + 1
        while stop < len(pieces) and _pause(pieces, stop) < LONG_PAUSE and _fits(pieces[first : stop + 1], options):
            stop += 1
        if stop < len(pieces) and _pause(pieces, stop) < LONG_PAUSE:
            stop = _best_cut(pieces, first, stop)
        yield pieces[first:stop]
        first = stop


def _pause(pieces: Sequence[_Piece], index: int) -> float:
    """Silence before a piece that is not the first."""
    return pieces[index].start - pieces[index - 1].end


def _fits(pieces: Sequence[_Piece], options: CueOptions) -> bool:
    if pieces[-1].end - pieces[0].start > options.max_cue_seconds:
        return False
    return len(_filled(_parts(pieces, options), options.max_line_width, options)) <= options.max_line_count


def _best_cut(pieces: Sequence[_Piece], first: int, stop: int) -> int:
    """Where to end a cue that starts at `first` and may hold the pieces up to `stop`."""
    allowed = [cut for cut in range(stop, first, -1) if not _ABBREVIATION.search(pieces[cut - 1].text)]
    for good in (
        lambda cut: _SENTENCE_END.search(pieces[cut - 1].text),
        lambda cut: _CLAUSE_END.search(pieces[cut - 1].text),
        lambda cut: _pause(pieces, cut) > SHORT_PAUSE,
    ):
        for cut in allowed:
            if good(cut):
                return cut
    return allowed[0] if allowed else stop


# -- lines --------------------------------------------------------------------------------------------


def _lines(pieces: Sequence[_Piece], options: CueOptions) -> list[list[_Piece]]:
    """As few lines as the text needs, filled evenly, the shorter ones first."""
    parts = _parts(pieces, options)
    fewest = len(_filled(parts, options.max_line_width, options))
    narrowest = max(max(width(part.text) for part in parts), ceil(width(_joined(pieces)) / fewest))
    for columns in range(narrowest, options.max_line_width):
        lines = _filled(parts, columns, options)
        if len(lines) == fewest:
            return lines
    return _filled(parts, options.max_line_width, options)


def _parts(pieces: Sequence[_Piece], options: CueOptions) -> list[_Piece]:
    """The pieces, with those that are wider than a line broken."""
    parts: list[_Piece] = []
    for piece in pieces:
        rest = piece
        while width(rest.text) > options.max_line_width:
            taken = 1
            while width(rest.text[: taken + 1]) <= options.max_line_width:
                taken += 1
            parts.append(replace(rest, text=rest.text[:taken]))
            rest = replace(rest, text=rest.text[taken:], spaced=False)
        parts.append(rest)
    return parts


def _filled(parts: Sequence[_Piece], columns: int, options: CueOptions) -> list[list[_Piece]]:
    """Lines of at most `columns`, filled from the last to the first, so that the first is the shortest."""
    lines: list[list[_Piece]] = []
    used = words = 0
    for part in reversed(parts):
        if lines:
            after = lines[0][0]
            wanted = used + width(part.text) + after.spaced
            in_line = words + after.spaced
            if wanted <= columns and not 0 < options.max_words_per_line < in_line:
                lines[0].insert(0, part)
                used, words = wanted, in_line
                continue
        lines.insert(0, [part])
        used, words = width(part.text), 1
    return lines


# -- when ---------------------------------------------------------------------------------------------


def _timed(cues: Sequence[Cue], max_seconds: float, duration: float) -> Iterator[Cue]:
    """The cues with times that never run back or overlap; short ones last longer where the next one allows it."""
    previous_end = 0.0
    for index, cue in enumerate(cues):
        start = max(cue.start, previous_end)
        limit = cues[index + 1].start if index + 1 < len(cues) else max(duration, cue.end)
        end = min(max(cue.end, start + MIN_CUE_SECONDS), limit, start + max_seconds)
        start, end = round(start, 3), round(max(end, start + MIN_STEP_SECONDS), 3)
        yield replace(cue, start=start, end=end)
        previous_end = end

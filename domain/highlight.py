"""Cues as they are shown: as they are, or once for each of their words while it is said."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from domain.cues import Cue, Spoken


@dataclass(frozen=True, slots=True)
class Shown:
    """Lines on a screen from `start` to `end` (seconds), with `word` underlined, if there is one."""

    start: float
    end: float
    lines: tuple[str, ...]
    word: Spoken | None = None


def shown(cues: Sequence[Cue]) -> Iterator[Shown]:
    """What is shown for `cues`, in order and without overlaps; each word until the next one begins."""
    for cue in cues:
        if not cue.spoken:
            yield Shown(cue.start, cue.end, cue.lines)
            continue
        start = cue.start
        for index, word in enumerate(cue.spoken):
            is_last = index + 1 == len(cue.spoken)
            end = cue.end if is_last else min(max(start, round(cue.spoken[index + 1].start, 3)), cue.end)
            # A word that the next one overtakes at once is not shown by itself.
            if end > start:
                yield Shown(start, end, cue.lines, word)
                start = end

"""A transcript as a text file: plain text, SubRip, WebVTT, tab-separated values, lyrics.

The text is data: nothing that is said can end a cue, start another one or become markup.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum

from domain.cue_options import CueOptions
from domain.cues import Cue, cues_of, is_control, is_space
from domain.highlight import Shown, shown
from domain.transcription import Transcript


class SubtitleFormat(StrEnum):
    """The forms that a transcript can be written in."""

    TEXT = "text"
    SRT = "srt"
    VTT = "vtt"
    TSV = "tsv"
    LRC = "lrc"

    @property
    def media_type(self) -> str:
        """What HTTP calls it."""
        return _MEDIA_TYPES[self]


_MEDIA_TYPES = {
    SubtitleFormat.TEXT: "text/plain; charset=utf-8",
    SubtitleFormat.SRT: "application/x-subrip",
    SubtitleFormat.VTT: "text/vtt",
    SubtitleFormat.TSV: "text/tab-separated-values",
    SubtitleFormat.LRC: "text/plain; charset=utf-8",
}
_VTT_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_LRC_TAG = re.compile(r"^\[|\[(?=\d+:)")


def render(transcript: Transcript, form: SubtitleFormat, options: CueOptions | None = None) -> str:
    """`transcript` written in `form`; nothing said gives an empty text (WebVTT: its header).

    `options` shape the cues of srt, vtt and lrc; text and tsv have none.
    """
    if form is SubtitleFormat.TEXT:
        text = one_line(transcript.text)
        return f"{text}\n" if text else ""
    if form is SubtitleFormat.TSV:
        return _tsv(transcript)
    cues = cues_of(transcript, options or CueOptions())
    if form is SubtitleFormat.SRT:
        return _srt(cues)
    if form is SubtitleFormat.VTT:
        return _vtt(cues)
    return _lrc(cues)


def one_line(text: str) -> str:
    """`text` as data: white space of every kind is one space, control characters are gone, `-->` is an arrow."""
    kept = "".join(" " if is_space(char) else char for char in text if is_space(char) or not is_control(char))
    return " ".join(filter(None, kept.split(" "))).replace("-->", "→")


def _srt(cues: Sequence[Cue]) -> str:
    return "\n".join(
        f"{number}\n{_clock(one.start, ',')} --> {_clock(one.end, ',')}\n"
        + "".join(f"{line}\n" for line in _marked(one, str))
        for number, one in enumerate(shown(cues), 1)
    )


def _vtt(cues: Sequence[Cue]) -> str:
    return "WEBVTT\n" + "".join(
        f"\n{_clock(one.start, '.')} --> {_clock(one.end, '.')}\n"
        + "".join(f"{line}\n" for line in _marked(one, lambda text: text.translate(_VTT_ESCAPES)))
        for one in shown(cues)
    )


def _marked(one: Shown, escape: Callable[[str], str]) -> Iterator[str]:
    """The lines, with the word that is being said underlined."""
    for number, line in enumerate(one.lines):
        if one.word is None or one.word.line != number:
            yield escape(line)
            continue
        first, stop = one.word.first, one.word.stop
        yield f"{escape(line[:first])}<u>{escape(line[first:stop])}</u>{escape(line[stop:])}"


def _tsv(transcript: Transcript) -> str:
    rows = [
        f"{_milliseconds(segment.start)}\t{_milliseconds(segment.end)}\t{text}\n"
        for segment in transcript.segments
        if (text := one_line(segment.text))
    ]
    return "".join(["start\tend\ttext\n", *rows]) if rows else ""


def _lrc(cues: Sequence[Cue]) -> str:
    lines = []
    for cue in cues:
        minutes, hundredths = divmod(round(cue.start * 100), 6000)
        seconds = f"{minutes:02}:{hundredths // 100:02}.{hundredths % 100:02}"
        lines.append(f"[{seconds}]{_LRC_TAG.sub('(', cue.text)}\n")
    return "".join(lines)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _clock(seconds: float, point: str) -> str:
    """`hh:mm:ss` and three decimals behind `point`."""
    minutes, milliseconds = divmod(_milliseconds(seconds), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"

import csv
import html
import io
import re
from datetime import timedelta
from itertools import pairwise

import pytest
import srt  # type: ignore[import-untyped]
import webvtt
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.cue_options import CueOptions
from domain.cues import cues_of, fits_a_cue, width
from domain.subtitles import SubtitleFormat, render
from domain.transcription import Segment, SpeechTask, Transcript, Word

LONG = (
    "And so, my fellow Americans, ask not what your country can do for you; ask what you can do for your country. "
    "My fellow citizens of the world, ask not what America will do for you."
)


def segment(number: int, start: float, end: float, text: str, words: tuple[Word, ...] = ()) -> Segment:
    return Segment(number, start, end, text, -0.2, 0.01, 1.2, 0.0, words)


def transcript(*segments: Segment, duration: float | None = None) -> Transcript:
    return Transcript(
        text="".join(one.text for one in segments).strip(),
        language="en",
        language_probability=1.0,
        duration=duration if duration is not None else max([0.0, *(one.end for one in segments)]),
        duration_after_vad=1.0,
        segments=segments,
        task=SpeechTask.TRANSCRIBE,
        processing_time=1.0,
    )


def spoken(text: str, seconds_a_word: float = 0.4, pauses: dict[str, float] | None = None) -> Segment:
    """A segment whose words follow each other, with `pauses[word]` seconds of silence after a word."""
    clock, words = 0.0, []
    for word in text.split():
        words.append(Word(f" {word}", clock, clock + seconds_a_word, 0.9))
        clock += seconds_a_word + (pauses or {}).get(word, 0.0)
    return segment(0, 0.0, words[-1].end, f" {text}", tuple(words))


def texts(of: Transcript, options: CueOptions | None = None) -> list[str]:
    return [cue.text for cue in cues_of(of, options or CueOptions())]


# -- the forms ----------------------------------------------------------------------------------------

TWO = transcript(segment(0, 0.0, 7.0, " Hello world."), segment(1, 3661.2, 3663.45, " Good bye & <b>farewell</b>."))
GOLDEN = {
    SubtitleFormat.TEXT: "Hello world. Good bye & <b>farewell</b>.\n",
    SubtitleFormat.SRT: "1\n00:00:00,000 --> 00:00:07,000\nHello world.\n\n"
    "2\n01:01:01,200 --> 01:01:03,450\nGood bye & <b>farewell</b>.\n",
    SubtitleFormat.VTT: "WEBVTT\n\n00:00:00.000 --> 00:00:07.000\nHello world.\n\n"
    "01:01:01.200 --> 01:01:03.450\nGood bye &amp; &lt;b&gt;farewell&lt;/b&gt;.\n",
    SubtitleFormat.TSV: "start\tend\ttext\n0\t7000\tHello world.\n3661200\t3663450\tGood bye & <b>farewell</b>.\n",
    SubtitleFormat.LRC: "[00:00.00]Hello world.\n[61:01.20]Good bye & <b>farewell</b>.\n",
}


@pytest.mark.parametrize("form", SubtitleFormat)
def test_each_form_is_written_to_the_letter(form: SubtitleFormat) -> None:
    assert render(TWO, form) == GOLDEN[form]


@pytest.mark.parametrize("form", SubtitleFormat)
def test_silence_is_an_empty_file(form: SubtitleFormat) -> None:
    assert render(transcript(duration=3.0), form) == ("WEBVTT\n" if form is SubtitleFormat.VTT else "")


def test_each_form_has_its_media_type() -> None:
    assert {form: form.media_type.partition(";")[0] for form in SubtitleFormat} == {
        "text": "text/plain",
        "srt": "application/x-subrip",
        "vtt": "text/vtt",
        "tsv": "text/tab-separated-values",
        "lrc": "text/plain",
    }


# -- text is data -------------------------------------------------------------------------------------

NASTY = " [00:01.00] one\r\n\r\n2\n00:00:05,000 --> 00:00:06,000\tthree\x00\x1b[31m <b>four</b> & \ud800\u2028NOTE five"


@pytest.mark.parametrize("with_words", [False, True])
def test_what_is_said_never_starts_a_cue_or_becomes_markup(with_words: bool) -> None:
    words = tuple(Word(piece, 0.0, 6.0, 1.0) for piece in re.split(r"(?= )", NASTY)) if with_words else ()
    said = transcript(segment(0, 0.0, 6.0, NASTY, words))
    wide = CueOptions(max_line_width=200)

    subtitles = list(srt.parse(render(said, SubtitleFormat.SRT, wide)))
    assert [one.content for one in subtitles] == [
        "[00:01.00] one 2 00:00:05,000 → 00:00:06,000 three[31m <b>four</b> & NOTE five"
    ]
    captions = webvtt.from_string(render(said, SubtitleFormat.VTT, wide)).captions
    assert [one.raw_text for one in captions] == [
        "[00:01.00] one 2 00:00:05,000 → 00:00:06,000 three[31m &lt;b&gt;four&lt;/b&gt; &amp; NOTE five"
    ]
    rows = list(csv.reader(io.StringIO(render(said, SubtitleFormat.TSV)), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [len(row) for row in rows] == [3, 3]
    lyrics = render(said, SubtitleFormat.LRC, wide)
    assert re.findall(r"\[\d+:\d+[.\d]*\]", lyrics) == ["[00:00.00]"]
    assert lyrics.count("\n") == 1


def test_an_arrow_that_control_characters_hide_is_an_arrow_all_the_same() -> None:
    assert "-->" not in render(transcript(segment(0, 0, 1, " a --\x00> b")), SubtitleFormat.TEXT)
    assert render(transcript(segment(0, 0, 1, " a --\x00> b")), SubtitleFormat.SRT).count("-->") == 1


# -- cutting ------------------------------------------------------------------------------------------


def test_a_segment_that_fits_is_one_cue_with_its_own_times() -> None:
    (cue,) = cues_of(transcript(segment(0, 1.0, 7.9, " Hello world.")), CueOptions())
    assert (cue.start, cue.end, cue.lines) == (1.0, 7.9, ("Hello world.",))


def test_a_long_segment_without_words_is_cut_in_proportion_to_its_text() -> None:
    cues = cues_of(transcript(segment(0, 10.0, 28.0, f" {LONG}")), CueOptions())
    assert " ".join(cue.text for cue in cues) == LONG
    columns_before = len(LONG.partition("My fellow citizens")[0].replace(" ", ""))
    expected = 10.0 + 18.0 * columns_before / len(LONG.replace(" ", ""))
    assert next(cue.start for cue in cues if cue.text.startswith("My fellow")) == pytest.approx(expected, abs=0.01)


def test_the_end_of_a_sentence_is_a_better_cut_than_a_comma() -> None:
    said = spoken("I came early, very early. Then the others came, one after the other, and we all sat down to eat.")
    assert texts(transcript(said))[0] == "I came early, very early."


def test_a_comma_is_a_better_cut_than_the_last_word_that_fits() -> None:
    said = spoken(
        "When the others came at last, we sat down to eat the supper that had been ready for such a long time"
    )
    assert texts(transcript(said))[0] == "When the others came at last,"


def test_a_short_pause_is_a_better_cut_than_the_last_word_that_fits() -> None:
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    assert texts(transcript(spoken(words, 0.45, {"six": 0.3})))[0] == "one two three four five six"
    assert texts(transcript(spoken(words, 0.45)))[0].endswith(" fourteen")


def test_a_long_pause_always_cuts() -> None:
    assert texts(transcript(spoken("Wait for it now", 0.3, {"it": 0.6}))) == ["Wait for it", "now"]
    assert texts(transcript(spoken("Wait for it now", 0.3, {"it": 0.59}))) == ["Wait for it now"]


@pytest.mark.parametrize("title", ["Mr.", "Dr.", "J.", "1.", "St."])
def test_no_cut_comes_after_an_abbreviation(title: str) -> None:
    said = spoken(f"He said that {title} Dashwood had had the leisure to consider how much there might be in his power")
    assert not any(cue.endswith(title) for cue in texts(transcript(said)))


def test_a_word_too_long_for_a_cue_stays_whole_and_is_cut_in_time() -> None:
    (cue,) = cues_of(transcript(segment(0, 0.0, 20.0, " " + "x" * 100)), CueOptions())
    assert (cue.text, cue.start, cue.end) == ("x" * 100, 0.0, 7.0)
    assert all(len(line) <= 42 for line in cue.lines)


def test_words_that_belong_together_without_a_space_stay_together() -> None:
    words = (Word(" an", 0, 1, 1.0), Word(" ill", 1, 2, 1.0), Word("-disposed", 2, 3, 1.0), Word(" man", 3, 4, 1.0))
    cues = cues_of(transcript(segment(0, 0, 4, " an ill-disposed man", words)), CueOptions(max_line_width=12))
    assert [cue.lines for cue in cues] == [("an", "ill-disposed"), ("man",)]


# -- lines --------------------------------------------------------------------------------------------


def test_lines_are_filled_evenly_and_the_shorter_one_comes_first() -> None:
    (cue,) = cues_of(transcript(segment(0, 0, 5, " the quick brown fox jumps over the lazy dog tonight")), CueOptions())
    assert cue.lines == ("the quick brown fox jumps", "over the lazy dog tonight")
    assert len(cue.lines[0]) <= len(cue.lines[1])


def test_an_eighty_letter_word_is_broken_into_lines() -> None:
    (cue,) = cues_of(transcript(segment(0, 0, 5, " " + "y" * 80)), CueOptions())
    assert "".join(cue.lines) == "y" * 80
    assert len(cue.lines) == 2


def test_chinese_wraps_at_half_the_characters_and_not_before_punctuation() -> None:
    said = "我们今天在这里讨论的是一个非常重要的问题，它关系到每一个人的生活和未来，所以请大家认真听。" * 2  # noqa: RUF001
    cues = cues_of(transcript(segment(0, 0, 20, said)), CueOptions())
    assert "".join(line for cue in cues for line in cue.lines) == said
    assert all(width(line) <= 42 for cue in cues for line in cue.lines)
    assert all(len(cue.lines) <= 2 for cue in cues)
    assert not any(line[0] in "，。" for cue in cues for line in cue.lines)  # noqa: RUF001


def test_words_in_a_line_can_be_limited() -> None:
    cues = cues_of(transcript(segment(0, 0, 6, " a b c d e f g")), CueOptions(max_words_per_line=2))
    assert [cue.lines for cue in cues] == [("a b", "c d"), ("e", "f g")]


# -- times --------------------------------------------------------------------------------------------


def test_a_short_cue_stays_as_long_as_the_next_one_allows() -> None:
    said = transcript(
        segment(0, 0.0, 0.2, " No."), segment(1, 0.5, 0.6, " Yes."), segment(2, 5.0, 5.1, " Oh."), duration=5.3
    )
    assert [(cue.start, cue.end) for cue in cues_of(said, CueOptions())] == [(0.0, 0.5), (0.5, 1.2), (5.0, 5.3)]


def test_segments_that_overlap_or_have_no_length_give_cues_that_do_neither() -> None:
    said = transcript(segment(0, 0.0, 3.0, " a"), segment(1, 2.0, 2.0, " b"), segment(2, 2.0, 4.0, " c"))
    cues = cues_of(said, CueOptions())
    assert [cue.text for cue in cues] == ["a", "b", "c"]
    assert all(cue.end > cue.start for cue in cues)
    assert all(before.end <= after.start for before, after in pairwise(cues))


WORDS = st.lists(
    st.tuples(st.text(max_size=30), st.floats(0, 9, allow_nan=False), st.floats(0, 2, allow_nan=False), st.booleans()),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(said=st.lists(WORDS, max_size=4), with_words=st.booleans())
def test_whatever_is_said_every_reader_gets_the_same_cues(
    said: list[list[tuple[str, float, float, bool]]], with_words: bool
) -> None:
    clock, segments = 0.0, []
    for number, spoken_words in enumerate(said):
        words = []
        begin = clock
        for text, length, pause, spaced in spoken_words:
            words.append(Word(" " * spaced + text, clock, clock + length, 1.0))
            clock += length + pause
        text = "".join(word.text for word in words)
        segments.append(segment(number, begin, clock, text, tuple(words) if with_words else ()))
    whole = transcript(*segments)
    cues = cues_of(whole, CueOptions())

    assert all(0 < cue.end - cue.start <= 7.001 for cue in cues)
    assert all(before.end <= after.start for before, after in pairwise(cues))
    assert all(width(line) <= 42 for cue in cues for line in cue.lines)
    # A cue with more lines than two is one word.
    assert all(len(cue.lines) <= 2 or " " not in cue.text for cue in cues)

    subtitles = list(srt.parse(render(whole, SubtitleFormat.SRT)))
    assert [one.content for one in subtitles] == ["\n".join(cue.lines) for cue in cues]
    assert [one.index for one in subtitles] == list(range(1, len(cues) + 1))
    captions = webvtt.from_string(render(whole, SubtitleFormat.VTT)).captions
    assert len(captions) == len(cues)
    for cue, subtitle, caption in zip(cues, subtitles, captions, strict=True):
        assert subtitle.start == timedelta(milliseconds=round(cue.start * 1000))
        assert subtitle.end == timedelta(milliseconds=round(cue.end * 1000))
        assert caption.start.replace(".", ",") == srt.timedelta_to_srt_timestamp(subtitle.start)
        assert html.unescape(caption.raw_text) == subtitle.content
    assert render(whole, SubtitleFormat.LRC).count("\n") == len(cues)
    for form in SubtitleFormat:
        render(whole, form).encode()


# -- words as they are said ---------------------------------------------------------------------------


def test_every_word_is_underlined_while_it_is_said() -> None:
    said = transcript(spoken("Tom & Ann sing.", 0.5))
    options = CueOptions(highlight_words=True)
    blocks = render(said, SubtitleFormat.VTT, options).split("\n\n")[1:]
    assert [block.split("\n")[1] for block in blocks] == [
        "<u>Tom</u> &amp; Ann sing.",
        "Tom <u>&amp;</u> Ann sing.",
        "Tom &amp; <u>Ann</u> sing.",
        "Tom &amp; Ann <u>sing.</u>",
    ]
    cues = list(srt.parse(render(said, SubtitleFormat.SRT, options)))
    assert [cue.start.total_seconds() for cue in cues] == [0.0, 0.5, 1.0, 1.5]
    assert all(before.end == after.start for before, after in pairwise(cues))


def test_a_segment_fits_a_cue_if_it_would_be_one() -> None:
    short, long = spoken("Hello world."), spoken(LONG)
    for one in (short, long):
        alone = transcript(segment(0, one.start, one.end, one.text))
        assert fits_a_cue(alone.segments[0], CueOptions()) == (len(texts(alone)) == 1)

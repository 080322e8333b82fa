"""What a cue may hold."""

from dataclasses import dataclass

from domain.listening import check_range


@dataclass(frozen=True, slots=True)
class CueOptions:
    """How transcripts are cut into cues.

    Columns in a line (wide East Asian characters take 2), lines, seconds, and words in a line (0 is as many as
    fit). `highlight_words` shows each cue once for every word, with that word underlined (srt and vtt). Raises
    InvalidRequest with the field's name for a value out of range.
    """

    max_line_width: int = 42
    max_line_count: int = 2
    max_cue_seconds: float = 7.0
    max_words_per_line: int = 0
    highlight_words: bool = False

    def __post_init__(self) -> None:
        check_range("max_line_width", self.max_line_width, 10, 200)
        check_range("max_line_count", self.max_line_count, 1, 4)
        check_range("max_cue_seconds", self.max_cue_seconds, 1, 30)
        check_range("max_words_per_line", self.max_words_per_line, 0, 50)

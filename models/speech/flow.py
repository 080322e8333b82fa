"""One request on its way through the engine: windows in, rows for the device out, and back to segments in order.

Pure: it decides what is to be decoded and what is believed, and is told what the model said. One owner at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from domain.transcription import Channel, LanguageHeard, Segment, TranscriptionRequest
from models.speech.batcher import BACKGROUND_WEIGHT, INTERACTIVE_WEIGHT, Line
from models.speech.guard import (
    Attempt,
    Decoded,
    Verdict,
    attempts,
    best_of,
    verdict_on,
    without_repetition,
)
from models.speech.language_vote import LanguageVote, likeliest
from models.speech.segments import SpokenWord, segments_of
from models.speech.windows import Window

QuietestOf = Callable[[int, int, int], int]
"""The position in a channel, between two others, at which the sound is quietest."""
MAX_PROMPT_TOKENS = 223
_FORGETS_ABOVE = 0.5
"""What was decoded at a higher temperature is not shown to the next window."""


class State(Enum):
    """Where a window is."""

    HELD = auto()
    QUEUED = auto()
    DONE = auto()


@dataclass(eq=False)
class Slot:
    """A window and what has become of it; `number` counts windows as they came, halves share one."""

    window: Window
    number: int
    state: State = State.HELD
    language: str | None = None
    attempt: int = 0
    tried: list[Decoded] = field(default_factory=list)
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchKey:
    """What rows of one batch share, because CTranslate2 takes it once a call."""

    frames: int
    decodes: bool
    timestamps: bool = False
    attempt: Attempt | None = None
    prompt_length: int = 0
    best_of: int = 1
    patience: float = 1.0
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0


@dataclass(eq=False)
class Row:
    """A window to be heard once, in one way. `prompt` are the tokens of what came before."""

    flow: "Flow"
    slot: Slot
    key: BatchKey
    prompt: tuple[int, ...] = ()

    @property
    def seconds(self) -> float:
        """How much sound it is."""
        return self.slot.window.seconds


@dataclass(slots=True)
class Counts:
    """How often the guard had to step in."""

    redone: int = 0
    dropped: int = 0
    collapsed: int = 0
    doubtful: int = 0


class Flow:
    """The windows of one request."""

    def __init__(
        self,
        request: TranscriptionRequest,
        language: str | None,
        prompt: Sequence[int],
        quietest: QuietestOf,
        *,
        short_windows: bool = True,
    ) -> None:
        """`language` None is to be found out; `prompt` is shown before every window.

        Without `short_windows` every window is padded to 30 s.
        """
        self._short_windows = short_windows
        self.request = request
        self.line: Line[Row] = Line(
            client=request.client,
            priority=request.priority,
            weight=INTERACTIVE_WEIGHT if request.interactive else BACKGROUND_WEIGHT,
            in_order=language is None and not request.multilingual,
        )
        self.counts = Counts()
        self.speech_seconds = 0.0
        self._language = language
        self._vote = LanguageVote(request.languages)
        self._prompt = tuple(prompt)
        self._said: tuple[int, ...] = ()
        self._quietest = quietest
        self._ways = list(attempts(request.decoding))
        self._slots: list[Slot] = []
        self._windows = 0
        self._ended = False

    # -- windows in -----------------------------------------------------------------------------------

    @property
    def open_windows(self) -> int:
        """How many are not done yet."""
        return len(self._slots)

    def add(self, window: Window) -> list[Row]:
        """The next window of the file; what can be decoded now."""
        self._slots.append(Slot(window, self._windows))
        self._windows += 1
        self.speech_seconds += window.seconds
        return self._more()

    def end(self) -> list[Row]:
        """There are no more windows; what can be decoded now."""
        self._ended = True
        return self._more()

    @property
    def is_over(self) -> bool:
        """Whether everything is done and was taken."""
        return self._ended and not self._slots

    # -- language -------------------------------------------------------------------------------------

    @property
    def language_heard(self) -> LanguageHeard | None:
        """The verdict on the recording, if there is one."""
        if self._language is not None:
            return LanguageHeard(self._language, 1.0)
        return None if self._vote.verdict is None else LanguageHeard(*self._vote.verdict)

    def language_of(self, slot: Slot) -> str | None:
        """What `slot` is to be decoded in; None as long as that is not known."""
        if slot.language is not None:
            return slot.language
        if self.request.multilingual:
            return None
        heard = self.language_heard
        return None if heard is None else heard.language

    def wants_language(self, slot: Slot) -> bool:
        """Whether the encoding of `slot` is to be listened to for its language."""
        if self.request.multilingual:
            return slot.language is None
        return self._language is None and self._vote.wants(slot.number)

    def hear_language(self, slot: Slot, probabilities: Mapping[str, float]) -> None:
        """How likely each language is in `slot`."""
        if self.request.multilingual:
            slot.language = likeliest([probabilities], self.request.languages)[0][0]
        self._vote.hear(slot.number, probabilities)
        if self.request.multilingual:
            self._vote.close()
        self.line.in_order = self.language_heard is None

    def hold(self, rows: Sequence[Row]) -> list[Row]:
        """`rows` were encoded and not decoded, for want of a language. What can be done now."""
        for waiting in (*rows, *self.line.rows):
            waiting.slot.state = State.HELD
        self.line.rows.clear()
        return self._more()

    # -- what the model said --------------------------------------------------------------------------

    def judge(self, row: Row, decoded: Decoded) -> tuple[Decoded | None, list[Row]]:
        """What is believed of `row`, None if nothing (yet); and the rows that are to be heard because of that."""
        slot, guard = row.slot, self.request.guard
        verdict = verdict_on(decoded, slot.window.seconds, guard)
        slot.tried.append(decoded)
        if verdict is Verdict.ACCEPT:
            return decoded, []
        if verdict is Verdict.DROP:
            self.counts.dropped += 1
            return None, self._done(slot, ())
        is_first = slot.attempt == 0
        window = slot.window
        halves = None
        if verdict is Verdict.SPLIT:
            halves = window.halves(lambda low, high: self._quietest(window.channel, low, high))
        if halves is not None:
            self.counts.redone += is_first
            return None, self._split(slot, halves)
        while slot.attempt + 1 < len(self._ways):
            slot.attempt += 1
            again = self._row(slot)
            if again.key != row.key:
                self.counts.redone += is_first
                return None, [again]
        return self._least_bad(slot), []

    def _split(self, slot: Slot, halves: tuple[Window, Window]) -> list[Row]:
        index = self._slots.index(slot)
        self._slots[index : index + 1] = [Slot(half, slot.number, language=slot.language) for half in halves]
        return self._more()

    def _least_bad(self, slot: Slot) -> Decoded:
        """The likeliest attempt, without repetitions. The caller is told of both."""
        best = best_of(slot.tried)
        kept = without_repetition(best)
        self.counts.doubtful += 1
        self.counts.collapsed += kept.text != best.text
        return kept

    def settle(self, slot: Slot, decoded: Decoded, words: Sequence[Sequence[SpokenWord]] = ()) -> list[Row]:
        """`slot` says `decoded`, with the words of each of its pieces, if they are known. What can be done now."""
        if decoded.temperature > _FORGETS_ABOVE:
            self._said = ()
        else:
            said = tuple(token for piece in decoded.pieces for token in piece.tokens)
            self._said = (*self._said, *said)[-MAX_PROMPT_TOKENS:]
        language = slot.language if self.request.multilingual else None
        channel = slot.window.channel if self.request.channel is Channel.SPLIT else None
        return self._done(slot, segments_of(slot.window, decoded, words, language, channel))

    def _done(self, slot: Slot, segments: Sequence[Segment]) -> list[Row]:
        slot.segments, slot.state = tuple(segments), State.DONE
        return self._more() if self.request.condition_on_previous_text else []

    def take_done(self) -> Iterator[Slot]:
        """The windows that are done, in the order of the file; one that is not holds back those behind it."""
        while self._slots and self._slots[0].state is State.DONE:
            yield self._slots.pop(0)

    # -- rows out -------------------------------------------------------------------------------------

    def _more(self) -> list[Row]:
        if self._ended and self._vote.is_unsure and not any(self._vote.wants(slot.number) for slot in self._slots):
            self._vote.close()
        held = [slot for slot in self._slots if slot.state is State.HELD]
        if self._vote.is_unsure and not self.request.multilingual:
            wanted = [slot for slot in held if self._vote.wants(slot.number)]
            return [self._queued(self.listening_row(slot)) for slot in wanted]
        if self.request.condition_on_previous_text:
            undone = [slot for slot in self._slots if slot.state is not State.DONE]
            held = undone[:1] if undone and undone[0].state is State.HELD else []
        return [self._queued(self._row(slot)) for slot in held]

    def _queued(self, row: Row) -> Row:
        row.slot.state = State.QUEUED
        return row

    def listening_row(self, slot: Slot) -> Row:
        """`slot`, to be heard for its language only."""
        return Row(self, slot, BatchKey(slot.window.frames(full_length=not self._short_windows), decodes=False))

    def _row(self, slot: Slot) -> Row:
        way, decoding = self._ways[slot.attempt], self.request.decoding
        prompt = self._prompt
        if self.request.condition_on_previous_text:
            prompt = (*prompt, *self._said)[-MAX_PROMPT_TOKENS:]
        frames = slot.window.frames(full_length=way.full_length or not self._short_windows)
        key = BatchKey(
            frames=frames,
            decodes=True,
            timestamps=self.request.wants_timestamps,
            attempt=Attempt(way.temperature, way.beam_size),
            prompt_length=len(prompt),
            best_of=decoding.best_of if way.temperature > 0 else 1,
            patience=decoding.patience,
            length_penalty=decoding.length_penalty,
            repetition_penalty=decoding.repetition_penalty,
            no_repeat_ngram_size=decoding.no_repeat_ngram_size,
        )
        return Row(self, slot, key, prompt)

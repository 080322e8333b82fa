"""How closely to listen: the numbers of decoding, of the guard over it, and of the voice detector before it."""

import math
from dataclasses import dataclass
from enum import StrEnum

from domain.errors import InvalidRequest

FALLBACK_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MAX_TEMPERATURES = 6


class Preset(StrEnum):
    """How much work goes into a transcript."""

    FAST = "fast"
    ACCURATE = "accurate"

    @property
    def beam_size(self) -> int:
        """Hypotheses that are followed at a time."""
        return 1 if self is Preset.FAST else 5


def check_range(field: str, value: float, low: float, high: float) -> None:
    """Raise InvalidRequest naming `field` unless `value` is a number from `low` to `high`."""
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidRequest(f"{field} must be between {low:g} and {high:g}", field=field)


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """How text is searched for.

    `temperature` 0 is greedy (or a beam search) and keeps warmer decodings for windows that fail; another number
    is the only one tried; several, ascending, are exactly the ladder that is climbed. `best_of` counts the
    samples at a temperature above 0. Raises InvalidRequest with the field's name for a value out of range.
    """

    beam_size: int = 1
    best_of: int = 5
    patience: float = 1.0
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    temperature: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        check_range("beam_size", self.beam_size, 1, 10)
        check_range("best_of", self.best_of, 1, 10)
        check_range("patience", self.patience, 0.5, 3)
        check_range("length_penalty", self.length_penalty, 0.1, 3)
        check_range("repetition_penalty", self.repetition_penalty, 1, 2)
        check_range("no_repeat_ngram_size", self.no_repeat_ngram_size, 0, 10)
        for temperature in self.temperatures:
            check_range("temperature", temperature, 0, 1)
        ladder = list(self.temperatures)
        if not 1 <= len(ladder) <= MAX_TEMPERATURES or ladder != sorted(set(ladder)):
            raise InvalidRequest(
                f"temperature must be one number or at most {MAX_TEMPERATURES} that ascend", field="temperature"
            )

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The ladder: the first one is tried on every window, the others where that fails."""
        if isinstance(self.temperature, tuple):
            return self.temperature
        return FALLBACK_TEMPERATURES if self.temperature == 0 else (self.temperature,)


@dataclass(frozen=True, slots=True)
class GuardOptions:
    """When a decoded window is not believed; None turns a gate off, `enabled` false all of them.

    Raises InvalidRequest with the field's name for a value out of range.
    """

    enabled: bool = True
    compression_ratio_threshold: float | None = 2.4
    log_prob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6

    def __post_init__(self) -> None:
        for field, value, low, high in (
            ("compression_ratio_threshold", self.compression_ratio_threshold, 1, 10),
            ("log_prob_threshold", self.log_prob_threshold, -10, 0),
            ("no_speech_threshold", self.no_speech_threshold, 0, 1),
        ):
            if value is not None:
                check_range(field, value, low, high)


@dataclass(frozen=True, slots=True)
class VadOptions:
    """What counts as speech; with `enabled` false everything does.

    Raises InvalidRequest naming the field as `vad_<name>` for a value out of range.
    """

    enabled: bool = True
    threshold: float = 0.5
    min_silence_ms: int = 160
    min_speech_ms: int = 0
    speech_pad_ms: int = 400

    def __post_init__(self) -> None:
        check_range("vad_threshold", self.threshold, 0.05, 0.95)
        check_range("vad_min_silence_ms", self.min_silence_ms, 0, 10_000)
        check_range("vad_min_speech_ms", self.min_speech_ms, 0, 5_000)
        check_range("vad_speech_pad_ms", self.speech_pad_ms, 0, 1_000)

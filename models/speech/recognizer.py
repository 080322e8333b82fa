"""Whisper, one recording at a time and one step at a time. Everything here runs on the engine's owner thread."""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from faster_whisper import WhisperModel
from faster_whisper.vad import VadOptions

from domain.errors import IngleError
from domain.transcription import (
    Caveat,
    Progress,
    Segment,
    Transcript,
    TranscriptionEvent,
    TranscriptionRequest,
    Word,
)
from models.speech.blocks import BLOCK_SECONDS, blocks
from models.speech.decode_child import SAMPLE_RATE
from models.speech.decoder import Recording

MAX_PROMPT_TOKENS = 223
MIN_SILENCE_MS = 160
SPEECH_PAD_MS = 400
_UNLOAD_SECONDS, _UNLOAD_PAUSE = 5.0, 0.002


@dataclass(slots=True)
class _Heard:
    """What is known of a recording so far."""

    language: str | None
    probability: float
    speech_seconds: float
    segments: list[Segment]


class Recognizer:
    """A loaded Whisper model. It keeps nothing of one request for the next."""

    def __init__(self, model: WhisperModel, *, block_seconds: float = BLOCK_SECONDS) -> None:
        """`block_seconds` of sound are in memory at a time."""
        self._model = model
        self._block_seconds = block_seconds

    def listen(
        self, recording: Recording, request: TranscriptionRequest, language: str | None
    ) -> Generator[TranscriptionEvent, None, None]:
        """Write down `recording`, spoken in `language` (a code; None finds out): one window's worth a step at most.

        Yields Segments, each followed by Progress, and the Transcript last. Starts never run back; an end may lie
        a little after the next start. Queue time, device and compute type are for the caller to fill in.
        """
        started = time.monotonic()
        total = recording.seconds
        prompt, caveats = self._prompt(request)
        heard = _Heard(language, 1.0 if language else 0.0, 0.0, [])
        for offset, block in blocks(recording.samples, self._block_seconds):
            block_end = offset + len(block) / SAMPLE_RATE
            for raw in self._transcribe(block, heard, request, prompt):
                earliest = heard.segments[-1].start if heard.segments else 0.0
                segment = _segment(raw, len(heard.segments), offset, earliest, block_end)
                heard.segments.append(segment)
                yield segment
                yield Progress(segment.end, total)
            yield Progress(block_end, total)
        found_speech = bool(heard.segments)
        yield Transcript(
            text="".join(segment.text for segment in heard.segments).strip(),
            language=heard.language if found_speech else None,
            language_probability=heard.probability if found_speech else 0.0,
            duration=total,
            duration_after_vad=heard.speech_seconds,
            segments=tuple(heard.segments),
            task=request.task,
            processing_time=time.monotonic() - started,
            warnings=caveats,
        )

    def _transcribe(
        self, block: npt.NDArray[np.float32], heard: _Heard, request: TranscriptionRequest, prompt: str | None
    ) -> Iterator[Any]:
        """faster-whisper's segments of `block`, with times from the block's start."""
        found, info = self._model.transcribe(
            block,
            language=heard.language,
            task=request.task.value,
            beam_size=request.decoding.beam_size,
            temperature=request.decoding.temperatures,
            condition_on_previous_text=False,
            # faster-whisper gives `initial_prompt` to the first window only, but hot words to every one.
            hotwords=prompt,
            word_timestamps=request.word_timestamps or request.cues is not None,
            vad_filter=request.vad.enabled,
            vad_parameters=VadOptions(min_silence_duration_ms=MIN_SILENCE_MS, speech_pad_ms=SPEECH_PAD_MS),
        )
        heard.speech_seconds += info.duration_after_vad
        for raw in found:
            if heard.language is None:
                # What the first block with speech is in holds for the whole recording.
                heard.language, heard.probability = info.language, float(info.language_probability)
            yield raw

    def _prompt(self, request: TranscriptionRequest) -> tuple[str | None, tuple[Caveat, ...]]:
        """Hot words and prompt as one text that fits, its end if it does not; None if there are none."""
        text = " ".join(filter(None, (request.hotwords.strip(), request.prompt.strip())))
        # The text is data: a control token written in it would end the prompt.
        text = text.encode("utf-8", "ignore").decode().replace("<|", "< |").strip()
        if not text:
            return None, ()
        ids = self._encode(text)
        if len(ids) <= MAX_PROMPT_TOKENS:
            return text, ()
        kept = MAX_PROMPT_TOKENS
        while len(self._encode(text)) > MAX_PROMPT_TOKENS:
            # The first character may have lost some of its bytes.
            text = self._model.hf_tokenizer.decode(ids[-kept:]).strip("\ufffd ")
            kept -= 1
        return text, (
            Caveat(
                "prompt_truncated",
                f"hot words and prompt have {len(ids)} tokens: the last {MAX_PROMPT_TOKENS} were used",
            ),
        )

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._model.hf_tokenizer.encode(f" {text}", add_special_tokens=False).ids
        return ids

    def close(self) -> None:
        """Take the weights out of memory. Raises IngleError if CTranslate2 keeps them."""
        weights = self._model.model
        give_up_at = time.monotonic() + _UNLOAD_SECONDS
        # CTranslate2 hands a result out before it counts the batch as over, and ignores the call until then.
        while weights.model_is_loaded:
            weights.unload_model()
            if time.monotonic() > give_up_at:
                raise IngleError("the speech model stays in memory though it was told to leave")
            time.sleep(_UNLOAD_PAUSE)


def _segment(raw: Any, number: int, offset: float, earliest: float, latest: float) -> Segment:
    """A segment of the file: times in hundredths of a second, from `earliest` to `latest`."""

    def at(seconds: float, low: float) -> float:
        return round(min(max(offset + float(seconds), low), latest), 2)

    start = at(raw.start, earliest)
    words = []
    begin = start
    for word in raw.words or ():
        begin = at(word.start, begin)
        words.append(Word(word.word, begin, at(word.end, begin), round(float(word.probability), 4)))
    return Segment(
        id=number,
        start=start,
        end=at(raw.end, start),
        text=raw.text,
        avg_logprob=float(raw.avg_logprob),
        no_speech_prob=float(raw.no_speech_prob),
        compression_ratio=float(raw.compression_ratio),
        temperature=float(raw.temperature or 0.0),
        words=tuple(words),
    )

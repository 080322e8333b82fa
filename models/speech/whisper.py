"""Whisper through CTranslate2: sound to encodings, encodings to languages, texts and times.

Everything here runs on the engine's owner thread. Nothing of one request is kept for the next.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import ctranslate2
import numpy as np
import numpy.typing as npt
from faster_whisper.feature_extractor import FeatureExtractor
from faster_whisper.tokenizer import Tokenizer

from domain.errors import IngleError
from domain.transcription import SpeechTask
from models.speech.checkpoint import Checkpoint
from models.speech.flow import BatchKey
from models.speech.guard import MAX_TEXT_TOKENS, Decoded, Piece
from models.speech.lanes import Lanes
from models.speech.segments import SECONDS_PER_STAMP, SpokenWord, pieces_of
from models.speech.words import merged, spoken_words

Sound = npt.NDArray[np.float32]
_HOP = 160
_MAX_LENGTH = 448
_UNLOAD_SECONDS, _UNLOAD_PAUSE = 5.0, 0.002


class Encoded:
    """Encoder outputs (rows, frames / 2, width), in pieces of one row or more; some of them are a copy in host memory.

    `rows` are taken by number, in the order of the pieces.
    """

    def __init__(self, pieces: Sequence[ctranslate2.StorageView]) -> None:
        self._pieces = pieces
        self._places = [(piece, row) for piece in pieces for row in range(piece.shape[0])]

    def rows(self, wanted: Sequence[int]) -> ctranslate2.StorageView:
        """Those of the rows `wanted`."""
        chosen = [self._places[row] for row in wanted]
        for piece in self._pieces:
            if chosen == [(piece, row) for row in range(piece.shape[0])]:
                return piece
        hosted = {id(piece): np.asarray(_on_host(piece)) for piece, _ in chosen}
        return ctranslate2.StorageView.from_array(np.stack([hosted[id(piece)][row] for piece, row in chosen]))


def _on_host(piece: ctranslate2.StorageView) -> ctranslate2.StorageView:
    return piece if piece.device == "cpu" else piece.to_device(ctranslate2.Device.cpu)


class Ears(Protocol):
    """What the engine needs of a speech model; all calls come from one thread.

    Rows of a call are independent of each other: each gets what it would get alone.
    """

    def encode(self, sounds: Sequence[Sound], frames: int) -> Any:
        """The encodings of `sounds` (16 kHz, from -1 to 1), padded to `frames` hundredths of a second."""
        ...

    def languages(self, encoded: Any, rows: Sequence[int]) -> list[Mapping[str, float]]:
        """The probability of every language in each of `rows`."""
        ...

    def decode(
        self,
        encoded: Any,
        rows: Sequence[int],
        key: BatchKey,
        voices: Sequence[tuple[str, SpeechTask]],
        prompts: Sequence[Sequence[int]],
        seconds: Sequence[float],
    ) -> list[Decoded]:
        """What each of `rows` says: in which language and for which task, after which prompt, in how much sound."""
        ...

    def align(
        self, encoded: Any, rows: Sequence[int], voice: tuple[str, SpeechTask], said: Sequence[Decoded],
        seconds: Sequence[float],
    ) -> list[list[list[SpokenWord]]]:  # fmt: skip
        """The words of each piece of what each of `rows` says."""
        ...

    def tokens(self, text: str) -> list[int]:
        """`text`, behind a space, as the model reads it; control tokens have no meaning in it."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """The other way round."""
        ...

    def close(self, *, to_host: bool = False) -> None:
        """Take the weights out of memory; `to_host` moves them from a GPU into the machine's.

        Raises IngleError if they stay.
        """
        ...


class WhisperEars:
    """Implements `Ears` with a checkpoint in memory, whose lanes share the rows of each call."""

    def __init__(self, checkpoint: Checkpoint, park: Callable[[Checkpoint], None] | None = None) -> None:
        """`park` keeps the checkpoint when its weights have been moved to the machine's own memory."""
        self._checkpoint, self._park = checkpoint, park
        self._model = checkpoint.model
        self._lanes = Lanes(checkpoint.lanes)
        self._vocabulary = checkpoint.tokenizer
        self._features = FeatureExtractor(feature_size=self._model.n_mels)
        plain = self._tokenizer("en", SpeechTask.TRANSCRIBE)
        self._first_stamp = plain.timestamp_begin
        self._end = plain.eot
        self._before = plain.sot_prev
        self._no_stamps = plain.no_timestamps
        control = (plain.transcribe, plain.translate, plain.sot, plain.sot_prev, plain.sot_lm)
        self._suppressed = sorted({*plain.non_speech_tokens, *(token for token in control if token is not None)})

    def _tokenizer(self, language: str, task: SpeechTask) -> Tokenizer:
        return Tokenizer(self._vocabulary, multilingual=self._model.is_multilingual, task=task.value, language=language)

    def encode(self, sounds: Sequence[Sound], frames: int) -> Encoded:
        """See `Ears`."""
        # A CPU gains nothing from a batch here, and would need the memory of all rows at once.
        batches = [sounds] if self._model.device == "cuda" else [[sound] for sound in sounds]
        return Encoded(self._lanes.map(lambda batch: self._encoded(batch, frames), batches))

    def _encoded(self, sounds: Sequence[Sound], frames: int) -> ctranslate2.StorageView:
        batch = np.zeros((len(sounds), self._model.n_mels, frames), np.float32)
        for row, sound in zip(batch, sounds, strict=True):
            # Padded after the spectrum, like faster-whisper's batches: short windows are misheard less often.
            spectrum = self._features(sound[: frames * _HOP], padding=_HOP)[:, :-1][:, :frames]
            row[:, : spectrum.shape[1]] = spectrum
        return self._model.encode(ctranslate2.StorageView.from_array(batch), to_cpu=False)

    def languages(self, encoded: Encoded, rows: Sequence[int]) -> list[Mapping[str, float]]:
        """See `Ears`."""
        found = self._model.detect_language(encoded.rows(rows))
        return [{token[2:-2]: float(probability) for token, probability in row} for row in found]

    def decode(
        self,
        encoded: Encoded,
        rows: Sequence[int],
        key: BatchKey,
        voices: Sequence[tuple[str, SpeechTask]],
        prompts: Sequence[Sequence[int]],
        seconds: Sequence[float],
    ) -> list[Decoded]:
        """See `Ears`."""
        assert key.attempt is not None
        starts = [
            [
                *((self._before, *prompt) if prompt else ()),
                *self._tokenizer(*voice).sot_sequence,
                *(() if key.timestamps else (self._no_stamps,)),
            ]
            for voice, prompt in zip(voices, prompts, strict=True)
        ]
        temperature = key.attempt.temperature
        how: dict[str, Any] = {"beam_size": key.attempt.beam_size, "patience": key.patience}
        if temperature > 0:
            how = {
                "beam_size": 1,
                "num_hypotheses": key.best_of,
                "sampling_topk": 0,
                "sampling_temperature": temperature,
            }

        def generate(share: Sequence[int]) -> Sequence[Any]:
            results: Sequence[Any] = self._model.generate(
                encoded.rows([rows[i] for i in share]),
                [starts[i] for i in share],
                length_penalty=key.length_penalty,
                repetition_penalty=key.repetition_penalty,
                no_repeat_ngram_size=key.no_repeat_ngram_size,
                max_length=_MAX_LENGTH,
                return_scores=True,
                return_no_speech_prob=True,
                suppress_blank=True,
                suppress_tokens=self._suppressed,
                **how,
            )
            return results

        return [
            self._decoded(result, key, length, len(starts[0]))
            for result, length in zip(self._lanes.share_out(generate, len(rows)), seconds, strict=True)
        ]

    def _decoded(self, result: Any, key: BatchKey, seconds: float, start: int) -> Decoded:
        assert key.attempt is not None
        tokens: list[int] = [token for token in result.sequences_ids[0] if token != self._end]
        stamps = [token - self._first_stamp for token in tokens if token >= self._first_stamp]
        if key.timestamps:
            parts = pieces_of(tokens, self._first_stamp, seconds)
        else:
            parts = [(0.0, seconds, tuple(tokens))] if tokens else []
        count = len(result.sequences_ids[0])
        return Decoded(
            pieces=tuple(Piece(start, end, self.text(text), text) for start, end, text in parts),
            tokens=count,
            avg_logprob=result.scores[0] * count**key.length_penalty / (count + 1),
            no_speech_prob=float(result.no_speech_prob),
            temperature=key.attempt.temperature,
            last_time=stamps[-1] * SECONDS_PER_STAMP if stamps and key.timestamps else None,
            most_tokens=min(MAX_TEXT_TOKENS, _MAX_LENGTH - start),
        )

    def align(
        self, encoded: Encoded, rows: Sequence[int], voice: tuple[str, SpeechTask], said: Sequence[Decoded],
        seconds: Sequence[float],
    ) -> list[list[list[SpokenWord]]]:  # fmt: skip
        """See `Ears`."""
        tokenizer = self._tokenizer(*voice)
        texts = [[list(piece.tokens) or self.tokens(piece.text) for piece in one.pieces] for one in said]
        joined = [[token for piece in pieces for token in piece] for pieces in texts]
        frames = [max(1, round(length * 100)) for length in seconds]

        def align(share: Sequence[int]) -> Sequence[Any]:
            results: Sequence[Any] = self._model.align(
                encoded.rows([rows[i] for i in share]),
                tokenizer.sot_sequence,
                [joined[i] for i in share],
                [frames[i] for i in share],
                median_filter_width=7,
            )
            return results

        return [
            merged(spoken_words(tokenizer, tokens, alignment), [len(piece) for piece in pieces])
            for tokens, pieces, alignment in zip(joined, texts, self._lanes.share_out(align, len(rows)), strict=True)
        ]

    def tokens(self, text: str) -> list[int]:
        """See `Ears`."""
        # The text is data: a control token written in it would end the prompt.
        plain = text.encode("utf-8", "ignore").decode().replace("<|", "< |").strip()
        if not plain:
            return []
        ids: list[int] = self._vocabulary.encode(f" {plain}", add_special_tokens=False).ids
        return ids

    def text(self, tokens: Sequence[int]) -> str:
        """See `Ears`."""
        return self._vocabulary.decode([token for token in tokens if token < self._end])

    def close(self, *, to_host: bool = False) -> None:
        """See `Ears`."""
        to_host = to_host and self._park is not None
        give_up_at = time.monotonic() + _UNLOAD_SECONDS
        # CTranslate2 hands a result out before it counts the batch as over, and ignores the call until then.
        while self._model.model_is_loaded:
            self._model.unload_model(to_cpu=to_host)
            if time.monotonic() > give_up_at:
                raise IngleError("the speech model stays in memory though it was told to leave")
            time.sleep(_UNLOAD_PAUSE)
        self._lanes.close()
        if to_host and self._park is not None:
            self._park(self._checkpoint)

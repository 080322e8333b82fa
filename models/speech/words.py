"""Words and when they are said, from the model's attention."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_whisper.tokenizer import Tokenizer

from models.speech.segments import SpokenWord

_STEPS_PER_SECOND = 50
_OPENING = "\"'“¿([{-"
_CLOSING = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001


class AlignedWord:
    """A word, how many tokens it has, and its times."""

    def __init__(self, text: str, tokens: int, start: float, end: float, probability: float) -> None:
        self.text = text
        self.tokens = tokens
        self.start = start
        self.end = end
        self.probability = probability


def spoken_words(tokenizer: Tokenizer, tokens: Sequence[int], alignment: Any) -> list[AlignedWord]:
    """The words of `tokens` by `alignment`, CTranslate2's pairs of token and step."""
    if not tokens:
        return []
    texts, parts = tokenizer.split_to_word_tokens([*tokens, tokenizer.eot])
    borders = np.concatenate([[0], np.cumsum([len(part) for part in parts[:-1]])]).astype(int)
    token_of, step_of = np.array(alignment.alignments, dtype=int).reshape(-1, 2).T
    # The step at which each token begins; the last one is the end of the text.
    begins = step_of[np.concatenate([[True], np.diff(token_of) != 0])] / _STEPS_PER_SECOND
    if len(begins) <= borders[-1]:
        begins = np.pad(begins, (0, int(borders[-1]) + 1 - len(begins)), mode="edge")
    probabilities = alignment.text_token_probs
    return [
        AlignedWord(
            text,
            len(part),
            float(begins[first]),
            float(begins[stop]),
            float(np.mean(probabilities[first:stop])),
        )
        for text, part, first, stop in zip(texts, parts, borders[:-1], borders[1:], strict=False)
    ]


def merged(words: Sequence[AlignedWord], piece_lengths: Sequence[int]) -> list[list[SpokenWord]]:
    """The words of each piece (`piece_lengths` tokens each), punctuation joined to the word that it clings to."""
    pieces: list[list[SpokenWord]] = [[] for _ in piece_lengths]
    limits = np.cumsum(piece_lengths)
    passed = 0
    opening: AlignedWord | None = None
    for word in words:
        piece = int(np.searchsorted(limits, passed, side="right"))
        passed += word.tokens
        if piece >= len(pieces) or not word.text:
            continue
        text, start = word.text, word.start
        if opening is not None:
            text, opening = opening.text + text, None
        mine = pieces[piece]
        if text.startswith(" ") and text.strip() in _OPENING and text.strip():
            opening = AlignedWord(text, 0, start, word.end, word.probability)
        elif mine and text in _CLOSING:
            mine[-1] = SpokenWord(mine[-1].text + text, mine[-1].start, mine[-1].end, mine[-1].probability)
        else:
            mine.append(SpokenWord(text, start, max(start, word.end), word.probability))
    return pieces

"""The probabilities of an answer's tokens, told when the text of the tokens is."""

from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as Ids

from domain.generation import PromptToken, TokenLogprob
from models.text.parts import Kind, Part
from models.text.reading import AnswerReader
from models.text.sampler import Ranked
from models.text.sequence import Sequence
from models.text.tokenizer import TextTokenizer


class HeldLogprobs:
    """Holds each token's probability back until the token's whole text may be shown.

    So they tell no more of a stop string than the text does. Tokens that gave no text, which are those of thinking,
    of marks and of calls, are never told; a token that is text in part is.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._unread: list[TokenLogprob] = []
        # By the number of characters decoded with the token, and of text shown with it.
        self._undecided: deque[tuple[int, TokenLogprob]] = deque()
        self._held: deque[tuple[int, TokenLogprob]] = deque()
        self._decoded = 0
        self._cut = 0
        self._text = 0
        # Where the last token ended, and how much text there was before it and with it.
        self._end = self._before = self._with = 0

    def take(self, ranked: Ranked, reader: AnswerReader, parts: Iterable[Part] | None) -> tuple[TokenLogprob, ...]:
        """Add the token that `reader` was just given; what may be shown now.

        `parts` are how the text was cut since, None where all of it is text.
        """
        top = tuple(self._named(token, logprob) for token, logprob in ranked.top)
        self._unread.append(self._named(ranked.token, ranked.logprob, top))
        if reader.decoded > self._decoded:
            grown, self._decoded = reader.decoded - self._decoded, reader.decoded
            self._undecided.extend((self._decoded, token) for token in self._unread)
            self._unread.clear()
            if parts is None:
                self._cut_off(grown, is_text=True)
        for part in parts or ():
            self._cut_off(len(part.text), is_text=part.kind is Kind.TEXT)
        return self._shown(reader)

    def finish(self, reader: AnswerReader, parts: Iterable[Part] | None) -> tuple[TokenLogprob, ...]:
        """All that is left, when the answer ends with all of its text."""
        if parts is None:
            self._held.extend((0, token) for token in self._unread)
        for part in parts or ():
            self._cut_off(len(part.text), is_text=part.kind is Kind.TEXT)
        if reader.stopped:
            return self._shown(reader)
        left = tuple(token for _, token in self._held)
        self._held.clear()
        return left

    def _cut_off(self, length: int, *, is_text: bool) -> None:
        """The next `length` characters are text or not, and so are the tokens that end in them."""
        while self._undecided and self._undecided[0][0] <= self._cut + length:
            end, token = self._undecided.popleft()
            if end != self._end:
                self._end, self._before = end, self._with
                self._with = self._text + (end - self._cut if is_text else 0)
            # Tokens that end at the same place are one character together, and one fate.
            if self._with > self._before:
                self._held.append((self._with, token))
        self._cut += length
        self._text += length if is_text else 0

    def _shown(self, reader: AnswerReader) -> tuple[TokenLogprob, ...]:
        visible = []
        while self._held and self._held[0][0] <= reader.shown:
            visible.append(self._held.popleft()[1])
        return tuple(visible)

    def _named(self, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        return _named(self._tokenizer, token, logprob, top)


class PromptTelling:
    """Tells the probabilities of a prompt, which the first answer's sequence gathers, once they are complete."""

    def __init__(self, tokenizer: TextTokenizer, sequence: Sequence, ids: Ids[int]) -> None:
        self._tokenizer = tokenizer
        self._sequence = sequence
        self._first = ids[0]
        self._told: tuple[PromptToken, ...] = ()

    def tokens(self) -> tuple[PromptToken, ...]:
        """The prompt; the same tuple every time."""
        if not self._told and self._sequence.scores is not None:
            raw = self._tokenizer.token_bytes(self._first)
            tokens = [PromptToken(self._first, raw.decode(errors="replace"), raw, None)]
            for token, logprob, best in self._sequence.scores.known:
                top = tuple(_named(self._tokenizer, other, value) for other, value in best)
                raw = self._tokenizer.token_bytes(token)
                tokens.append(PromptToken(token, raw.decode(errors="replace"), raw, logprob, top))
            self._told = tuple(tokens)
        return self._told


def _named(tokenizer: TextTokenizer, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    raw = tokenizer.token_bytes(token)
    return TokenLogprob(token, raw.decode(errors="replace"), raw, logprob, top)

"""How a completion looks on the wire: whole, and piece by piece."""

import codecs
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from api.openai.envelope import Json, bounded
from domain.generation import Finish, PromptToken, TextChunk, TokenLogprob

KIND = "text_completion"


class TokenTable:
    """The probabilities of the tokens of a text, as four lists; offsets count the characters of the text."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0
        self.json: Json = self._empty()

    def add(self, tokens: Sequence[TokenLogprob | PromptToken]) -> Json:
        """Take the next tokens; returns the lists of these alone."""
        added = self._empty()
        for token in tokens:
            added["tokens"].append(spelled(token))
            added["token_logprobs"].append(None if token.logprob is None else bounded(token.logprob))
            added["top_logprobs"].append(_alternatives(token))
            added["text_offset"].append(self._offset)
            self._offset += len(self._decoder.decode(token.raw))
        for name, values in added.items():
            self.json[name].extend(values)
        return added

    @staticmethod
    def _empty() -> Json:
        return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def spelled(token: TokenLogprob | PromptToken) -> str:
    """A token's text, or its bytes where they are no whole characters."""
    try:
        return token.raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.raw)


def _alternatives(token: TokenLogprob | PromptToken) -> dict[str, float] | None:
    """The most probable tokens at this place and the one that stands there; None where nothing comes before."""
    if token.logprob is None:
        return None
    return {spelled(token): bounded(token.logprob)} | {spelled(other): bounded(other.logprob) for other in token.top}


@dataclass
class Choice:
    """One answer to one prompt, as far as it is written. `echo` is what stands before it."""

    index: int
    with_logprobs: bool
    echo: str = ""
    text: list[str] = field(default_factory=list)
    table: TokenTable = field(default_factory=TokenTable)
    finish: Finish | None = None
    _logprobs: list[float] = field(default_factory=list)

    def add(self, chunk: TextChunk) -> tuple[str, Json | None]:
        """Take the next piece; returns its text and the probabilities of its tokens, what is echoed included."""
        piece = chunk.text if self.text else self.echo + chunk.text
        self.text.append(piece)
        self.finish = chunk.finish
        self._logprobs += [token.logprob for token in chunk.logprobs]
        if not self.with_logprobs:
            return piece, None
        return piece, self.table.add((*chunk.prompt, *chunk.logprobs))

    @property
    def mean_logprob(self) -> float:
        """How probable its tokens are on average; an answer without tokens is the last choice."""
        return math.fsum(self._logprobs) / len(self._logprobs) if self._logprobs else -math.inf

    def whole(self, index: int) -> Json:
        """All of it, as choice number `index`."""
        return self._json(index, "".join(self.text), self.table.json if self.with_logprobs else None)

    def pieces(self, chunk: TextChunk) -> Iterator[Json]:
        """The choices of a stream's chunks that tell `chunk`, which is the next piece of this answer."""
        text, logprobs = self.add(chunk)
        if text or (logprobs and logprobs["tokens"]):
            yield {**self._json(self.index, text, logprobs), "finish_reason": None}
        if chunk.finish is not None:
            yield self._json(self.index, "", None)

    def _json(self, index: int, text: str, logprobs: Json | None) -> dict[str, Any]:
        reason = None if self.finish is None else self.finish.reason.value
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

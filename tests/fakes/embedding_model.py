"""An encoder whose vectors follow from the words of a text and nothing else."""

import hashlib
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from domain.embedding import EmbeddingInput, Embeddings, check_inputs
from domain.errors import ContextLengthExceeded, InvalidRequest
from domain.model import Model
from tests.fakes.gate import Gate
from tests.fakes.loaded import FakeLoadedModel

VOCABULARY_SIZE = 32_000
CONTROL_TOKENS = 2


@dataclass
class EmbeddingScript:
    """How a FakeEmbeddingModel works; shared by every load of the same model, changeable at any time.

    `before` holds a request in the queue; `error` is raised after that.
    """

    dimensions: int = 16
    before: Gate = field(default_factory=Gate)
    error: Exception | None = None


@dataclass(frozen=True)
class Embedded:
    """One call of `embed`."""

    texts: tuple[EmbeddingInput, ...]
    truncate: bool
    dimensions: int | None
    normalize: bool


class FakeEmbeddingModel(FakeLoadedModel):
    """An EmbeddingModel: a token is a word, a vector the sum of its words' vectors. `calls` keeps every call."""

    def __init__(self, info: Model, script: EmbeddingScript, violations: list[str] | None = None) -> None:
        super().__init__(info, [] if violations is None else violations)
        self.script = script
        self.calls: list[Embedded] = []

    @property
    def dimensions(self) -> int:
        """The length of the vectors."""
        return self.script.dimensions

    async def embed(
        self,
        texts: Sequence[EmbeddingInput],
        *,
        truncate: bool = True,
        dimensions: int | None = None,
        normalize: bool = True,
    ) -> Embeddings:
        """One vector for each text."""
        check_inputs(texts, dimensions)
        async with self.working(None) as work:
            self.calls.append(Embedded(tuple(texts), truncate, dimensions, normalize))
            rows = [self._tokens(text, truncate) for text in texts]
            await self.admit(work, self.script.before)
            if self.script.error is not None:
                raise self.script.error
            vectors = (vector_of(row, self.dimensions, dimensions, normalize) for row in rows)
            return Embeddings(tuple(vectors), tuple(map(len, rows)))

    def _tokens(self, text: EmbeddingInput, truncate: bool) -> list[str]:
        room = self.info.context_length
        if isinstance(text, str):
            tokens = ["[CLS]", *text.split(), "[SEP]"]
            kept = [*tokens[: room - 1], "[SEP]"] if len(tokens) > room else tokens
        else:
            if any(not 0 <= token < VOCABULARY_SIZE for token in text):
                raise InvalidRequest("input holds a token id outside the vocabulary", field="input")
            tokens = [str(token) for token in text]
            kept = tokens[:room]
        if len(tokens) > room and not truncate:
            raise ContextLengthExceeded(len(tokens), room)
        return kept


def vector_of(tokens: Sequence[str], size: int, dimensions: int | None, normalize: bool) -> "array[float]":
    """The sum of the vectors of `tokens`, of which `dimensions` are left."""
    digests = [hashlib.shake_128(token.encode()).digest(size) for token in tokens]
    values = [sum(digest[place] / 255.0 for digest in digests) for place in range(size)][:dimensions]
    length = math.sqrt(sum(value * value for value in values)) if normalize else 1.0
    return array("f", (value / length for value in values))

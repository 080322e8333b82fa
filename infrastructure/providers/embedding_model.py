"""An embedding model of an OpenAI-compatible provider."""

import asyncio
import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from domain.embedding import EmbeddingInput, Embeddings, check_inputs
from domain.errors import BadResponse, DeadlineExceeded, UnsupportedParameter
from infrastructure.providers.exchange import Call
from infrastructure.providers.remote_model import RemoteModel
from infrastructure.providers.work import DeadlinePassed, Work

MAX_TEXTS = 64
"""Texts in one call: their vectors, written as decimal numbers, stay below the limit of an answer."""


class ProvidedEmbeddingModel(RemoteModel):
    """Implements `application.ports.EmbeddingModel`, as far as the provider keeps to OpenAI's API.

    * Vectors are cut and made length 1 here, so every provider's are alike; `normalize` false is refused, for what the
      provider sends may have length 1 already.
    * Token ids are refused. A text beyond the context is the provider's to cut or to refuse (InvalidRequest).
    * The provider counts the tokens of all texts of a call together: each text gets its share by its length.
    """

    @property
    def dimensions(self) -> int:
        """As configured; an answer with others is refused."""
        return self._provided.dimensions

    async def embed(
        self,
        texts: Sequence[EmbeddingInput],
        *,
        truncate: bool = True,  # noqa: ARG002 (the provider cuts or refuses as it likes)
        dimensions: int | None = None,
        normalize: bool = True,
    ) -> Embeddings:
        """The vectors of `texts`; whether a long text is cut is up to the provider."""
        check_inputs(texts, dimensions)
        if not normalize:
            raise UnsupportedParameter("vectors of another server can only be had normalised", field="normalize")
        written = [text for text in texts if isinstance(text, str)]
        if len(written) < len(texts):
            raise UnsupportedParameter("the tokens of another server's model are not known here", field="input")
        vectors: list[array[float]] = []
        counts: list[int] = []
        with self._calls.one_more(self._provided.provider.patience.total) as work:
            try:
                for at in range(0, len(written), MAX_TEXTS):
                    batch = written[at : at + MAX_TEXTS]
                    told, tokens = await self._ask(batch, work)
                    vectors += await asyncio.to_thread(_shaped, told, dimensions)
                    counts += shares(tokens, [len(text) for text in batch])
            except DeadlinePassed:
                raise DeadlineExceeded from None
        return Embeddings(tuple(vectors), tuple(counts))

    async def _ask(self, texts: Sequence[str], work: Work) -> tuple[list[list[float]], int]:
        """The provider's vectors in the order of `texts`, and its count of tokens."""
        body = {"model": self._provided.remote_name, "input": list(texts), "encoding_format": "float"}
        answer = await self._connection.answer(Call("/embeddings", body, work))
        data = answer.get("data")
        if not isinstance(data, list) or len(data) != len(texts):
            raise BadResponse("the provider's answer has another number of vectors than was asked for")
        by_index = {_index(entry, at): entry.get("embedding") for at, entry in enumerate(data)}
        vectors = [self._checked(by_index.get(at)) for at in range(len(texts))]
        usage = answer.get("usage")
        tokens = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
        return vectors, tokens if isinstance(tokens, int) and tokens > 0 else 0

    def _checked(self, vector: Any) -> list[float]:
        if not isinstance(vector, list) or not all(type(value) in (float, int) for value in vector):
            raise BadResponse("a vector of the provider's answer is no list of numbers")
        if len(vector) != self.dimensions:
            raise BadResponse(
                f"the provider's vectors have {len(vector)} dimensions, and {self.dimensions} are configured"
            )
        return vector


def _index(entry: Any, default: int) -> int:
    if not isinstance(entry, Mapping):
        raise BadResponse("a vector of the provider's answer is no object")
    index = entry.get("index", default)
    return index if isinstance(index, int) else default


def _shaped(vectors: Sequence[Sequence[float]], dimensions: int | None) -> list["array[float]"]:
    """The vectors, cut to `dimensions` and of length 1."""
    shaped = []
    for vector in vectors:
        cut = vector[:dimensions]
        length = math.sqrt(sum(value * value for value in cut))
        shaped.append(array("f", (value / length for value in cut) if length else cut))
    return shaped


def shares(total: int, sizes: Sequence[int]) -> list[int]:
    """`total` in whole parts that are as `sizes` to each other, as near as can be."""
    parts, done, given = [], 0, 0
    for size in sizes:
        done += size
        until = total * done // sum(sizes)
        parts.append(until - given)
        given = until
    return parts

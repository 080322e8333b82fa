"""Vectors from a model that writes: what it makes of a text's last token, which has seen all the others."""

import asyncio
import math
from array import array
from collections.abc import Awaitable, Callable, Sequence

from domain.embedding import EmbeddingInput
from domain.errors import ContextLengthExceeded, InvalidRequest
from domain.generation import GenerationRequest, SamplingParams
from domain.prompt import RawText, TokenIds
from models.text.tokenizer import TextTokenizer

# So many texts of one caller stand in the queue at a time, so that others with few need not wait for all of them.
_AT_ONCE = 16
# Up to this many characters are encoded on the event loop: a thread would cost more.
_ENCODE_INLINE = 2048


async def encoded(
    tokenizer: TextTokenizer, texts: Sequence[EmbeddingInput], context: int, *, truncate: bool
) -> list[list[int]]:
    """The tokens of `texts`; with `truncate` without the last ones of what does not fit into `context`.

    Like every prompt a text leaves room for one token more. Raises InvalidRequest, ContextLengthExceeded.
    """

    def encode() -> list[list[int]]:
        return [_encode(tokenizer, number, text, context, truncate) for number, text in enumerate(texts)]

    if sum(map(len, texts)) <= _ENCODE_INLINE:
        return encode()
    return await asyncio.to_thread(encode)


def _encode(tokenizer: TextTokenizer, number: int, text: EmbeddingInput, context: int, truncate: bool) -> list[int]:
    if isinstance(text, str):
        ids = tokenizer.encode(RawText(text))
    else:
        tokenizer.check_vocabulary(text, "input")
        ids = list(text)
    if not ids:
        raise InvalidRequest(f"input {number} is empty after tokenising", field="input")
    if len(ids) >= context and not truncate:
        raise ContextLengthExceeded(len(ids), context)
    return ids[: context - 1]


def reading_of(ids: Sequence[int]) -> GenerationRequest:
    """A request that has `ids` read, and nothing written."""
    return GenerationRequest(TokenIds(tuple(ids)), SamplingParams(temperature=0.0, max_tokens=0))


async def each(
    rows: Sequence[Sequence[int]], pool: Callable[[Sequence[int]], Awaitable["array[float]"]]
) -> list["array[float]"]:
    """`pool` of every row, in order, some at a time; the first failure, or leaving, ends those under way."""
    vectors: list[array[float]] = [array("f") for _ in rows]
    left = iter(range(len(rows)))

    async def work() -> None:
        for number in left:
            vectors[number] = await pool(rows[number])

    tasks = [asyncio.create_task(work(), name="pool the last token") for _ in rows[:_AT_ONCE]]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return vectors


def shaped(vector: "array[float]", dimensions: int | None, *, normalize: bool) -> "array[float]":
    """`vector` cut to `dimensions`, and with `normalize` of length 1."""
    cut = vector[:dimensions]
    length = math.hypot(*cut) if normalize else 1.0
    return array("f", (value / length for value in cut)) if length else cut

"""What an embedding model is given and what comes back."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from domain.errors import InvalidRequest

EmbeddingInput = str | Sequence[int]
"""A text, or token ids of the model exactly as it is to read them (control tokens included)."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector for each input, in order, and how many tokens of each input the model read.

    A vector is an array of type `f`: 32-bit floats that take no more memory than that.
    """

    vectors: tuple["array[float]", ...]
    token_counts: tuple[int, ...]

    @property
    def total_tokens(self) -> int:
        """Tokens of all inputs."""
        return sum(self.token_counts)


def check_inputs(inputs: Sequence[EmbeddingInput], dimensions: int | None) -> None:
    """Raises InvalidRequest, with the field's name, when there is nothing to embed or less than one dimension."""
    if not inputs:
        raise InvalidRequest("input must not be empty", field="input")
    for number, text in enumerate(inputs):
        if not text:
            raise InvalidRequest(f"input {number} is empty", field="input")
    if dimensions is not None and dimensions < 1:
        raise InvalidRequest("dimensions must be at least 1", field="dimensions")

"""Texts to token ids, cut to what the model can read."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from domain.embedding import EmbeddingInput
from domain.errors import ContextLengthExceeded, InvalidRequest, ModelLoadFailed


class EncoderTokenizer:
    """Encodes for one encoder; safe to use from several threads."""

    def __init__(self, backend: Tokenizer, *, vocabulary_size: int, prompt: str = "", lower_case: bool = False) -> None:
        """Takes `backend` over: its own padding and truncation are switched off."""
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._vocabulary_size = vocabulary_size
        self._prompt = prompt
        self._lower_case = lower_case
        self.control_tokens: int = backend.num_special_tokens_to_add(is_pair=False)

    def encode(self, inputs: Sequence[EmbeddingInput], context_length: int, *, truncate: bool) -> list[list[int]]:
        """Ids of each input, control tokens included, at most `context_length` of them.

        Raises ContextLengthExceeded for a longer input unless `truncate`, and InvalidRequest for token ids outside
        the vocabulary and for text that is not Unicode.
        """
        return [self._encode(text, context_length, truncate) for text in inputs]

    def _encode(self, text: EmbeddingInput, context_length: int, truncate: bool) -> list[int]:
        if not isinstance(text, str):
            return self._checked(text, context_length, truncate)
        text = self._prompt + text
        try:
            encoding = self._backend.encode(text.lower() if self._lower_case else text, add_special_tokens=False)
        except TypeError as error:
            raise InvalidRequest("input holds half a surrogate pair, which is not text", field="input") from error
        room = context_length - self.control_tokens
        if len(encoding) > room:
            if not truncate:
                raise ContextLengthExceeded(len(encoding) + self.control_tokens, context_length)
            encoding.truncate(room)
        return list(self._backend.post_process(encoding).ids)

    def _checked(self, ids: Sequence[int], context_length: int, truncate: bool) -> list[int]:
        if any(not 0 <= token < self._vocabulary_size for token in ids):
            raise InvalidRequest("input holds a token id outside the vocabulary", field="input")
        if len(ids) > context_length and not truncate:
            raise ContextLengthExceeded(len(ids), context_length)
        return list(ids[:context_length])


def read_tokenizer(directory: Path) -> tuple[Tokenizer, int, int]:
    """The tokenizer beside the weights, its padding token, and the length in tokens that it was made for.

    Raises ModelLoadFailed if transformers has no fast tokenizer for it.
    """
    loaded = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    backend = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ModelLoadFailed(f"the tokenizer of {directory.name} cannot be used: tokenizer.json is missing")
    return backend, loaded.pad_token_id or 0, int(loaded.model_max_length)

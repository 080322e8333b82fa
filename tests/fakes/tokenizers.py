"""Tokenizers whose tokens are words, as those of the fake text model."""

from collections.abc import Sequence

from domain.errors import InvalidRequest, UnsupportedCapability
from domain.model import ModelSpec, Task
from domain.prompt import Prompt
from tests.fakes.text_model import VOCABULARY_SIZE, text_of, token_id, token_ids, words

BEGIN = 1


class FakeTokenizer:
    """A Tokenizer: one id for each word, and `BEGIN` before them; ids of words it has seen can be spelled."""

    def __init__(self) -> None:
        self.seen: dict[int, str] = {BEGIN: "<s>"}

    async def encode(self, prompt: Prompt, *, add_special_tokens: bool = True) -> tuple[int, ...]:
        """One for each word."""
        self.seen |= {token_id(word): word for word in words(text_of(prompt))}
        return (*([BEGIN] if add_special_tokens else []), *token_ids(prompt))

    async def decode(self, ids: Sequence[int]) -> str:
        """The words, or the numbers of ids that no word was seen for."""
        return b"".join(await self.pieces(ids)).decode()

    async def pieces(self, ids: Sequence[int]) -> tuple[bytes, ...]:
        """As `decode`, one by one."""
        if any(not 0 <= token < VOCABULARY_SIZE for token in ids):
            raise InvalidRequest("tokens holds a token id outside the vocabulary", field="tokens")
        return tuple(self.seen.get(token, f" {token}").encode() for token in ids)


class FakeTokenizers:
    """A Tokenizers. `opened` keeps the names of the models that were asked for."""

    def __init__(self) -> None:
        self.tokenizer = FakeTokenizer()
        self.opened: list[str] = []

    async def open(self, spec: ModelSpec) -> FakeTokenizer:
        """The same one for every model that reads."""
        if spec.task is Task.SPEECH:
            raise UnsupportedCapability(f"model '{spec.id}' has no tokens of text", field="model")
        self.opened.append(spec.id)
        return self.tokenizer

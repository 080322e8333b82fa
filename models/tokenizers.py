"""Tokenizers of the models on disk, for whoever wants to count or to look and not to generate."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tokenizers import Tokenizer as Backend

from domain.errors import InvalidRequest, UnsupportedCapability
from domain.model import LoadOptions, ModelSpec, Task, WeightFormat
from domain.prompt import Chat, Prompt, RawText, TokenIds
from models.embedding.sentence import read_settings
from models.embedding.tokenizer import read_tokenizer as read_encoder_tokenizer
from models.installed import InstalledModel
from models.store import ModelStore
from models.text.converted import layout_name
from models.text.placement import place_text
from models.text.tokenizer import TextTokenizer
from models.text.vocabulary import read_tokenizer

T = TypeVar("T")

# Some 20 MB each.
_KEPT = 4
# Below this many characters or tokens a thread would cost more than the work.
_INLINE = 2048


class _Vocabulary(Protocol):
    """What a model's files say of tokens; every method blocks."""

    @property
    def size(self) -> int: ...

    def encode(self, prompt: Prompt, add_special_tokens: bool) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def piece(self, token: int) -> bytes: ...


class StoredTokenizers:
    """Implements `application.ports.Tokenizers` over the local store; a few are kept."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], StoredTokenizer] = OrderedDict()

    async def open(self, spec: ModelSpec) -> "StoredTokenizer":
        """The tokenizer of `spec`; see the contract."""
        if spec.task is Task.SPEECH:
            raise UnsupportedCapability(f"model '{spec.id}' hears: it has no tokens of text", field="model")
        if spec.format is WeightFormat.REMOTE:
            raise UnsupportedCapability(f"model '{spec.id}' is another server's, and so are its tokens", field="model")
        if (kept := self._kept.get((spec.id, spec.digest))) is not None:
            return kept
        return await asyncio.to_thread(self._open, spec)

    def _open(self, spec: ModelSpec) -> "StoredTokenizer":
        key = (spec.id, spec.digest)
        with self._lock:
            if key not in self._kept:
                installed = self._store.find(spec.id)
                self._kept[key] = StoredTokenizer(_read(self._store, installed))
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            return self._kept[key]


class StoredTokenizer:
    """Implements `application.ports.Tokenizer`."""

    def __init__(self, vocabulary: _Vocabulary) -> None:
        self._vocabulary = vocabulary

    async def encode(self, prompt: Prompt, *, add_special_tokens: bool = True) -> tuple[int, ...]:
        """The tokens of `prompt`; see the contract."""
        return tuple(await _run(_length(prompt), lambda: self._vocabulary.encode(prompt, add_special_tokens)))

    async def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids`."""
        self._check(token_ids)
        return await _run(len(token_ids), lambda: self._vocabulary.decode(token_ids))

    async def pieces(self, token_ids: Sequence[int]) -> tuple[bytes, ...]:
        """What each token stands for."""
        self._check(token_ids)
        return await _run(len(token_ids), lambda: tuple(map(self._vocabulary.piece, token_ids)))

    def _check(self, ids: Sequence[int]) -> None:
        size = self._vocabulary.size
        if outside := [token for token in ids if not 0 <= token < size]:
            raise InvalidRequest(
                f"tokens holds {outside[0]}, and the model's vocabulary has {size} tokens", field="tokens"
            )


@dataclass(frozen=True, slots=True)
class _TextVocabulary:
    tokenizer: TextTokenizer

    @property
    def size(self) -> int:
        return self.tokenizer.vocabulary_size

    def encode(self, prompt: Prompt, add_special_tokens: bool) -> list[int]:
        ids = self.tokenizer.encode(prompt)
        if add_special_tokens or not isinstance(prompt, RawText):
            return ids
        # The one special token that plain text gets, unless the text itself spells it.
        first = self.tokenizer.settings.special.get("bos_token", "")
        starts = self.tokenizer.settings.add_bos and first and not prompt.text.startswith(first)
        return ids[1:] if starts and self.tokenizer.spell(ids[:1]) == first else ids

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.spell(list(ids))

    def piece(self, token: int) -> bytes:
        return self.tokenizer.token_bytes(token)


@dataclass(frozen=True, slots=True)
class _EncoderVocabulary:
    backend: Backend
    lower_case: bool

    @property
    def size(self) -> int:
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def encode(self, prompt: Prompt, add_special_tokens: bool) -> list[int]:
        match prompt:
            case RawText(text):
                text = text.lower() if self.lower_case else text
                return list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)
            case TokenIds(ids):
                return list(ids)
            case _:
                raise UnsupportedCapability("the model embeds: it has no chat template", field="messages")

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.backend.decode(list(ids), skip_special_tokens=False))

    def piece(self, token: int) -> bytes:
        return (self.backend.id_to_token(token) or "").encode()


def _read(store: ModelStore, installed: InstalledModel) -> _Vocabulary:
    spec = installed.spec
    if spec.task is Task.EMBEDDING:
        backend, _, _ = read_encoder_tokenizer(installed.directory)
        backend.no_padding()
        backend.no_truncation()
        return _EncoderVocabulary(backend, read_settings(installed.directory).lower_case)
    source = installed.directory
    if spec.format is WeightFormat.GGUF:
        source = next(file.path for file in installed.files if file.name.endswith(".gguf"))
    precision = place_text(LoadOptions()).precision
    copy = store.converted_dir(installed, layout_name(int8=precision.int8, dtype=precision.dtype))
    return _TextVocabulary(read_tokenizer(source, spec.format, copy))


async def _run(size: int, work: Callable[[], T]) -> T:
    return work() if size <= _INLINE else await asyncio.to_thread(work)


def _length(prompt: Prompt) -> int:
    """Characters, roughly."""
    match prompt:
        case RawText(text):
            return len(text)
        case Chat(messages, tools):
            parts = (*(message.content for message in messages), *(tool.parameters for tool in tools))
            return sum(map(len, parts))
        case _:
            return _INLINE + 1

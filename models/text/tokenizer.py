"""Text to token ids and back: chat templates, control tokens kept out of user text, UTF-8-safe streaming."""

import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from domain.errors import InvalidRequest, UnsupportedCapability
from domain.prompt import Chat, Continuation, FillInMiddle, Prompt, RawText, TokenIds, chat_of
from models import tokenizer_files
from models.templates import abilities_of
from models.text import marks
from models.text.decoding import TextStream
from models.text.fill_in import FillIn, find_fill_in
from models.text.rendering import BREAK, Rendering

_END_OF_TURN = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<|end|>",
)
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SETTINGS_FILE = "tokenizer_settings.json"
_TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """What a tokenizer is besides its vocabulary; `special` maps bos_token, eos_token … to their text."""

    chat_template: str | None
    special: dict[str, str] = field(default_factory=dict)
    end_ids: tuple[int, ...] = ()
    add_bos: bool = False


class TextTokenizer:
    """Encodes prompts and decodes answers; safe to use from several threads."""

    def __init__(self, backend: Tokenizer, settings: TokenizerSettings) -> None:
        self._backend = backend
        self.settings = settings
        self._plain: Tokenizer | None = None
        self._plain_lock = threading.Lock()
        self._added = backend.get_added_tokens_decoder()
        self._is_byte_level = b'"ByteLevel"' in bytes(backend.decoder.__getstate__()) if backend.decoder else False
        control = {token.content for token in self._added.values() if token.special or marks.is_mark(token.content)}
        self.abilities = abilities_of(settings.chat_template or "")
        self.syntax = marks.syntax_of(settings.chat_template or "")
        self._rendering = Rendering(settings.chat_template, settings.special, control, self.abilities, self.syntax)

    # -- files ----------------------------------------------------------------------------------------

    @classmethod
    def from_directory(cls, directory: Path, end_ids: tuple[int, ...] = ()) -> Self:
        """The tokenizer that lies beside safetensors weights; `end_ids` are the model's own end tokens."""
        loaded = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        backend: Tokenizer = loaded.backend_tokenizer
        template = loaded.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        special = {name: str(value) for name, value in loaded.special_tokens_map.items() if isinstance(value, str)}
        starts = backend.encode("a").ids[:1] == [loaded.bos_token_id] and loaded.bos_token_id is not None
        return cls(backend, TokenizerSettings(template, special, _all_ends(backend, special, end_ids), starts))

    @classmethod
    def from_parts(cls, backend: Tokenizer, config: Mapping[str, Any], end_ids: tuple[int, ...] = ()) -> Self:
        """A tokenizer out of a GGUF file's metadata."""
        special = {name: value for name, value in config.items() if name.endswith("_token") and isinstance(value, str)}
        settings = TokenizerSettings(
            chat_template=config.get("chat_template"),
            special=special,
            end_ids=_all_ends(backend, special, end_ids),
            add_bos=bool(config.get("add_bos_token")),
        )
        return cls(backend, settings)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """What `save` wrote."""
        raw = json.loads((directory / _SETTINGS_FILE).read_text(encoding="utf-8"))
        settings = TokenizerSettings(raw["chat_template"], raw["special"], tuple(raw["end_ids"]), raw["add_bos"])
        return cls(tokenizer_files.parsed(directory / _TOKENIZER_FILE), settings)

    def save(self, directory: Path) -> None:
        """Write the tokenizer so that `load` needs nothing else."""
        self._backend.save(str(directory / _TOKENIZER_FILE), pretty=False)
        (directory / _SETTINGS_FILE).write_text(json.dumps(asdict(self.settings)), encoding="utf-8")

    # -- encoding -------------------------------------------------------------------------------------

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are, added tokens included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def encode(self, prompt: Prompt) -> list[int]:
        """The ids of a prompt. Raises InvalidRequest or UnsupportedCapability if the prompt cannot be had."""
        match prompt:
            case Chat():
                return self._encode_rendered(self.render(prompt))
            case RawText(text):
                return self._with_bos(self._backend.encode(text, add_special_tokens=False).ids)
            case Continuation(token_ids, then):
                self.check_vocabulary(token_ids, "context")
                return [*token_ids, *self._encode_rendered(self.render(then))]
            case TokenIds(ids):
                self.check_vocabulary(ids, "prompt")
                return list(ids)
            case FillInMiddle():
                if self.fill_in is None:
                    raise UnsupportedCapability(
                        "the model cannot fill in the middle: its vocabulary has no tokens for it", field="suffix"
                    )
                return self._with_bos(self.fill_in.prompt(prompt, self._encode_plain))

    def check_vocabulary(self, ids: Iterable[int], field: str) -> None:
        """Raise InvalidRequest for an id that stands for nothing."""
        size = self.vocabulary_size
        if any(not 0 <= token < size for token in ids):
            raise InvalidRequest(f"{field} holds a token id outside the vocabulary of {size}", field=field)

    def render(self, chat: Chat) -> str:
        """The chat as the model's template writes it, with `BREAK` inside control tokens that users wrote."""
        return self._rendering.render(chat)

    def opens_thinking(self, prompt: Prompt, ids: Sequence[int]) -> bool:
        """Whether the prompt, whose ids these are, leaves the model in the middle of its thinking."""
        chat = chat_of(prompt)
        if chat is None or not self.abilities.thinking or not chat.add_generation_prompt:
            return False
        return not chat.continue_final_message and self.spell(ids[-8:]).rstrip().endswith(marks.THINK)

    def _encode_rendered(self, rendered: str) -> list[int]:
        if BREAK not in rendered:
            return list(self._backend.encode(rendered, add_special_tokens=False).ids)
        # Control tokens of the template stay control tokens; those of users are spelled out in plain tokens.
        ids: list[int] = []
        position = 0
        for match in self._rendering.broken_control.finditer(rendered):
            ids += self._backend.encode(rendered[position : match.start()], add_special_tokens=False).ids
            ids += self._spelled_out(match[0])
            position = match.end()
        return ids + list(self._backend.encode(rendered[position:], add_special_tokens=False).ids)

    def _spelled_out(self, broken: str) -> list[int]:
        plain = self._plain_backend()
        ids = plain.encode(broken.replace(BREAK, ""), add_special_tokens=False).ids
        if not self._added.keys() & set(ids):
            return list(ids)
        # The library spells out special tokens only; other added ones fall apart when they come in two halves.
        halves = (plain.encode(half, add_special_tokens=False).ids for half in broken.split(BREAK))
        return [token for half in halves for token in half]

    def _encode_plain(self, text: str) -> list[int]:
        return self._encode_rendered(self._rendering.clean(text))

    def _plain_backend(self) -> Tokenizer:
        with self._plain_lock:
            if self._plain is None:
                self._plain = Tokenizer.from_str(self._backend.to_str())
                self._plain.encode_special_tokens = True
            return self._plain

    def _with_bos(self, ids: list[int]) -> list[int]:
        bos = self.settings.special.get("bos_token")
        bos_id = self._backend.token_to_id(bos) if bos and self.settings.add_bos else None
        return [bos_id, *ids] if bos_id is not None and ids[:1] != [bos_id] else list(ids)

    # -- decoding -------------------------------------------------------------------------------------

    def decode(self, ids: list[int]) -> str:
        """The text of ids, control tokens left out."""
        return str(self._backend.decode(ids, skip_special_tokens=True))

    def spell(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens as they are written."""
        return str(self._backend.decode(ids, skip_special_tokens=False))

    def stream(self, stop: tuple[str, ...] = (), may_stop: Callable[[str], bool] | None = None) -> TextStream:
        """A decoder for one answer, token by token; `may_stop` says whether it may end with the text so far."""
        return TextStream(self._backend, stop, may_stop)

    def spelling_stream(self, texts: Iterable[str]) -> TextStream:
        """A decoder that spells out those of `texts` that are control tokens, and knows no stop strings."""
        return TextStream(self._backend, spelled={token: text for text in texts if (token := self.id_of(text))})

    def id_of(self, text: str) -> int | None:
        """The one token that is `text`, if there is one."""
        token = self._backend.token_to_id(text) if text else None
        return None if token is None else int(token)

    def singles(self, *texts: str) -> frozenset[int]:
        """The tokens of those `texts` that are one token each."""
        encoded = (self._backend.encode(text, add_special_tokens=False).ids for text in texts)
        return frozenset(ids[0] for ids in encoded if len(ids) == 1)

    @cached_property
    def fill_in(self) -> FillIn | None:
        """How the vocabulary marks text with a hole, if it can."""
        return find_fill_in(self.id_of)

    def token_bytes(self, token: int) -> bytes:
        """What one token stands for, which need not be whole characters; nothing for an id without a token."""
        spelled = self._backend.id_to_token(token)
        if spelled is None:
            return b""
        if token in self._added:
            return spelled.encode()
        if self._is_byte_level:
            return b"".join(
                _BYTE_OF[character] if character in _BYTE_OF else character.encode() for character in spelled
            )
        if single := _BYTE_TOKEN.fullmatch(spelled):
            return bytes.fromhex(single[1])
        return spelled.replace("\u2581", " ").encode()

    def to_json(self) -> str:
        """The vocabulary and its rules as the tokenizers library writes them."""
        return str(self._backend.to_str())


def _all_ends(backend: Tokenizer, special: Mapping[str, str], end_ids: tuple[int, ...]) -> tuple[int, ...]:
    """Every token that ends an answer: the model's own, its eos token, and the usual ends of a chat turn."""
    known = (backend.token_to_id(text) for text in (special.get("eos_token", ""), *_END_OF_TURN) if text)
    return tuple(sorted({*end_ids, *(token for token in known if token is not None)}))


def _byte_alphabet() -> dict[str, bytes]:
    """How byte-level vocabularies spell bytes: printable ones as themselves, the others as letters from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    spelled = {chr(byte): bytes([byte]) for byte in printable}
    return spelled | {chr(256 + place): bytes([byte]) for place, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()

"""Text to token ids and back: chat templates, control tokens kept out of user text, UTF-8-safe streaming."""

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from domain.errors import InvalidRequest, UnsupportedCapability
from domain.prompt import Chat, Continuation, FillInMiddle, Prompt, RawText, TokenIds
from models import tokenizer_files

# Not a character of any text: rendered templates carry it where user text spelled out a control token.
_BREAK = "\ue0b7"
_END_OF_TURN = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>", "<|end|>")
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
        special = (token.content for token in self._added.values() if token.special)
        control = sorted(special, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, control)) or r"(?!)")
        self._broken_control = re.compile("|".join(re.escape(_break(text)) for text in control) or r"(?!)")

    # -- files ----------------------------------------------------------------------------------------

    @classmethod
    def from_directory(cls, directory: Path, end_ids: tuple[int, ...] = ()) -> Self:
        """The tokenizer that lies beside safetensors weights; `end_ids` are the model's own end tokens."""
        loaded = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        backend: Tokenizer = loaded.backend_tokenizer
        template = loaded.chat_template if isinstance(loaded.chat_template, str) else None
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
                raise UnsupportedCapability("filling in the middle is not offered yet", field="suffix")

    def check_vocabulary(self, ids: Iterable[int], field: str) -> None:
        """Raise InvalidRequest for an id that stands for nothing."""
        size = self.vocabulary_size
        if any(not 0 <= token < size for token in ids):
            raise InvalidRequest(f"{field} holds a token id outside the vocabulary of {size}", field=field)

    def render(self, chat: Chat) -> str:
        """The chat as the model's template writes it, with `_BREAK` inside control tokens that users wrote."""
        template = self.settings.chat_template
        if template is None:
            raise UnsupportedCapability("the model has no chat template: use a raw prompt", field="messages")
        messages = [{"role": str(message.role), "content": self._broken(message.content)} for message in chat.messages]
        try:
            variables: dict[str, Any] = {"add_generation_prompt": True, **self.settings.special}
            rendered = render_jinja_template([messages], chat_template=template, **variables)
        except TemplateError as error:
            raise InvalidRequest(f"the model's chat template refused the messages: {error}", field="messages") from None
        return str(rendered[0][0])

    def _broken(self, text: str) -> str:
        clean = text.replace(_BREAK, "")
        return self._control.sub(lambda match: _break(match[0]), clean)

    def _encode_rendered(self, rendered: str) -> list[int]:
        if _BREAK not in rendered:
            return list(self._backend.encode(rendered, add_special_tokens=False).ids)
        # Control tokens of the template stay control tokens; those of users are spelled out in plain tokens.
        ids: list[int] = []
        plain = self._plain_backend()
        position = 0
        for match in self._broken_control.finditer(rendered):
            ids += self._backend.encode(rendered[position : match.start()], add_special_tokens=False).ids
            ids += plain.encode(match[0].replace(_BREAK, ""), add_special_tokens=False).ids
            position = match.end()
        return ids + list(self._backend.encode(rendered[position:], add_special_tokens=False).ids)

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

    def stream(self, stop: tuple[str, ...] = (), may_stop: Callable[[str], bool] | None = None) -> "TextStream":
        """A decoder for one answer, token by token; `may_stop` says whether it may end with the text so far."""
        return TextStream(self._backend, stop, may_stop)

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


class TextStream:
    """Turns the tokens of one answer into text that may be shown.

    A character is held back until it is whole, and the beginning of a stop string until it is none. `decoded` counts
    the characters that the tokens gave, `shown` those that were released.
    """

    def __init__(
        self, backend: Tokenizer, stop: tuple[str, ...], may_stop: Callable[[str], bool] | None = None
    ) -> None:
        self._backend = backend
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop = stop
        self._may_stop = may_stop
        self._before = ""
        self._held = ""
        self.decoded = 0
        self.shown = 0
        self.stopped = False

    def push(self, token: int, *, watch: bool = True) -> str:
        """The text that this token makes ready; `stopped` is set when it completed a stop string.

        Without `watch` a stop string is text like any other; once watched, an answer is watched to its end.
        """
        piece = self._decoder.step(self._backend, token)
        if not piece:
            return ""
        self.decoded += len(piece)
        ready = self._release(piece, watch) if self._stop else piece
        self.shown += len(ready)
        return ready

    def flush(self) -> str:
        """What is held back when the answer ends: it was no stop string, and an incomplete character stays out."""
        if self.stopped:
            return ""
        held, self._held = self._held, ""
        self.shown += len(held)
        return held

    def _release(self, piece: str, watch: bool) -> str:
        self._held += piece
        stop_at = self._stop_in_held() if watch else None
        if stop_at is not None:
            self.stopped = True
            ready, self._held = self._held[:stop_at], ""
            return ready
        keep = max(_overlap(self._held, text) for text in self._stop) if watch else 0
        ready = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        if self._may_stop is not None:
            self._before += ready
        return ready

    def _stop_in_held(self) -> int | None:
        if self._may_stop is None:
            return min((at for at in (self._held.find(text) for text in self._stop) if at >= 0), default=None)
        places = {at for text in self._stop for at in _occurrences(self._held, text)}
        return next((at for at in sorted(places) if self._may_stop(self._before + self._held[:at])), None)


def _break(control: str) -> str:
    return control[0] + _BREAK + control[1:]


def _occurrences(text: str, part: str) -> Iterator[int]:
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` could be the beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


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

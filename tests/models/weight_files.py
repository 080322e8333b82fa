"""Weight files too small to be any use, but of the right shape."""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

Field = str | int | Sequence[str]
Content = bytes | str | dict[str, object]


def safetensors(shapes: Mapping[str, Sequence[int]]) -> bytes:
    """A safetensors file of zeros with these tensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 4
        for side in shape:
            size *= side
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def _string(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def gguf(fields: Mapping[str, Field], tensors: Mapping[str, Sequence[int]], *, version: int = 3) -> bytes:
    """A GGUF header with these fields (text, 32-bit number or list of text) and tensors, and no data."""
    body = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(fields))
    for key, value in fields.items():
        body += _string(key)
        if isinstance(value, str):
            body += struct.pack("<I", 8) + _string(value)
        elif isinstance(value, int):
            body += struct.pack("<II", 4, value)
        else:
            body += struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_string, value))
    for name, shape in tensors.items():
        body += _string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", 0, 0)
    return body


def write(folder: Path, files: Mapping[str, Content]) -> Path:
    """Put `files` into `folder`; dictionaries become JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            content = json.dumps(content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


QWEN: Mapping[str, Content] = {
    "config.json": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "max_position_embeddings": 32768},
    "model.safetensors": safetensors({"a": (2, 3), "b": (4,)}),
    "tokenizer.json": "{}",
    "tokenizer_config.json": {"chat_template": "{% if tools %}{% endif %}<think>"},
}
WHISPER: Mapping[str, Content] = {
    "config.json": {"alignment_heads": [[3, 1]], "lang_ids": [50259]},
    "model.bin": b"not really",
    "tokenizer.json": "{}",
    "vocabulary.json": "[]",
}
ENCODER: Mapping[str, Content] = {
    "config.json": {"architectures": ["BertModel"], "model_type": "bert", "max_position_embeddings": 512},
    "model.safetensors": safetensors({"a": (2, 3)}),
    "sentence_bert_config.json": {"max_seq_length": 256},
    "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
}
GGUF_FIELDS: Mapping[str, Field] = {
    "general.architecture": "qwen2",
    "general.name": "A Qwen",
    "qwen2.context_length": 4096,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
    "tokenizer.chat_template": "{{ tools }}",
}

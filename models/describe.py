"""What a model is, read off its files: for models that a person placed here, or that came from no catalogue.

Only configuration and headers are read, within bounds. Whether the weights can really be run is found out by
whoever loads them; this says which loader that is.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from domain.model import MAX_CONTEXT_LENGTH, ModelSpec, Task, WeightFormat
from domain.preset import Preset
from models.catalog import PART_OF_GGUF, SPLIT_ADVICE, is_model_file
from models.generation_settings import FILE as SETTINGS_FILE
from models.generation_settings import preset_of
from models.headers import BadHeader, gguf_header, safetensors_parameters
from models.templates import capabilities_of

_MAX_JSON = 16 << 20
_MAX_ENTRIES = 1000
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_SENTENCE_MODEL = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
_GGUF_ENCODERS = ("bert", "nomic-bert", "jina-bert-v2", "modern-bert")


class Unusable(ValueError):
    """These files are not a model that Ingle loads. The text says why; it names files by their base names only."""


def model_files(directory: Path) -> Sequence[str]:
    """The names of the files below `directory` that may be opened, sorted. Raises Unusable, OSError.

    A symbolic link may point wherever it likes inside `directory` (which may itself be a link that its owner
    made); one that leads out of it makes the whole directory unusable.
    """
    root = directory.resolve(strict=True)
    names = []
    entries = [*directory.iterdir()]
    entries += [below for entry in entries[:_MAX_ENTRIES] if entry.is_dir() for below in entry.iterdir()]
    if len(entries) > _MAX_ENTRIES:
        raise Unusable(f"it has more than {_MAX_ENTRIES} entries")
    for entry in entries:
        if entry.is_symlink() and not entry.resolve().is_relative_to(root):
            raise Unusable(f"'{entry.name}' is a link that leads out of the model's folder")
        name = entry.relative_to(directory).as_posix()
        if is_model_file(name) and entry.is_file():
            names.append(name)
    return sorted(names)


def describe(path: Path, model_id: str) -> ModelSpec:
    """The model at `path`, a directory or a GGUF file. Raises Unusable, OSError.

    `capabilities` and `context_length` are what the files say; sizes are of the files as they are.
    """
    try:
        if path.is_file():
            if PART_OF_GGUF.search(path.name):
                raise Unusable(f"it is a part of a split GGUF file, and Ingle does not load parts: {SPLIT_ADVICE}")
            return _describe_gguf(path, model_id)
        names = model_files(path)
        weights = [name for name in names if "/" not in name and name.endswith(".safetensors")]
        gguf = [name for name in names if "/" not in name and name.endswith(".gguf")]
        size = sum((path / name).stat().st_size for name in names)
        if weights:
            return _describe_safetensors(path, names, weights, model_id, size)
        if "model.bin" in names and {"vocabulary.json", "vocabulary.txt"} & set(names):
            return _describe_ctranslate2(path, names, model_id, size)
        if len(gguf) == 1 and not PART_OF_GGUF.search(gguf[0]):
            return _describe_gguf(path / gguf[0], model_id)
        raise Unusable(_why_not(path, gguf))
    except BadHeader as error:
        raise Unusable(str(error)) from error


def _why_not(path: Path, gguf: Sequence[str]) -> str:
    if gguf and all(PART_OF_GGUF.search(name) for name in gguf):
        return f"its GGUF file is split, and Ingle does not load parts: {SPLIT_ADVICE}"
    if gguf:
        return "it holds several GGUF files and a model is one: give each a place of its own"
    pickles = sorted(entry.name for entry in path.iterdir() if entry.name.endswith(_PICKLES))
    if pickles:
        return (
            f"its weights are pickled ({pickles[0]}), and pickles are never opened because they can carry code: "
            "convert them to safetensors"
        )
    return "it holds no safetensors, GGUF or CTranslate2 weights"


def _describe_safetensors(
    path: Path, names: Sequence[str], weights: Sequence[str], model_id: str, size: int
) -> ModelSpec:
    if "config.json" not in names:
        raise Unusable("config.json is missing")
    config = read_json(path / "config.json")
    architecture = str((_list(config.get("architectures")) or [""])[0])
    is_encoder = any(name in names for name in _SENTENCE_MODEL)
    if not is_encoder and not architecture.endswith("ForCausalLM"):
        raise Unusable(f"its architecture '{architecture[:80]}' is neither a causal language model nor an encoder")
    context = _positive(config.get("max_position_embeddings"))
    if is_encoder and "sentence_bert_config.json" in names:
        context = _positive(read_json(path / "sentence_bert_config.json").get("max_seq_length")) or context
    return ModelSpec(
        id=model_id,
        title=model_id,
        task=Task.EMBEDDING if is_encoder else Task.TEXT,
        format=WeightFormat.SAFETENSORS,
        family=str(config.get("model_type", ""))[:80],
        context_length=context,
        size_bytes=size,
        parameters=sum(safetensors_parameters(path / name) for name in weights),
        capabilities=("embedding",) if is_encoder else capabilities_of(template_of(path, names)),
        preset=Preset() if is_encoder else _own_settings(path, names),
    )


def _own_settings(path: Path, names: Sequence[str]) -> Preset:
    return preset_of(read_json(path / SETTINGS_FILE)) if SETTINGS_FILE in names else Preset()


def _describe_ctranslate2(path: Path, names: Sequence[str], model_id: str, size: int) -> ModelSpec:
    config = read_json(path / "config.json") if "config.json" in names else {}
    if not ({"alignment_heads", "lang_ids", "suppress_ids"} & config.keys()):
        raise Unusable("it is a CTranslate2 model, but its config.json is not that of a Whisper model")
    return ModelSpec(
        id=model_id,
        title=model_id,
        task=Task.SPEECH,
        format=WeightFormat.CTRANSLATE2,
        family="whisper",
        size_bytes=size,
        capabilities=("audio",),
    )


def _describe_gguf(path: Path, model_id: str) -> ModelSpec:
    header = gguf_header(path)
    architecture = str(header.fields.get("general.architecture", ""))[:80]
    if not architecture:
        raise Unusable(f"{path.name} does not say of which architecture it is")
    is_encoder = architecture in _GGUF_ENCODERS
    template = str(header.fields.get("tokenizer.chat_template", ""))
    return ModelSpec(
        id=model_id,
        title=str(header.fields.get("general.name", "") or model_id)[:200],
        task=Task.EMBEDDING if is_encoder else Task.TEXT,
        format=WeightFormat.GGUF,
        family=architecture,
        context_length=_positive(header.fields.get(f"{architecture}.context_length")),
        size_bytes=path.stat().st_size,
        parameters=header.parameters,
        licence=str(header.fields.get("general.license", ""))[:80],
        capabilities=("embedding",)
        if is_encoder
        else capabilities_of(template, insert="tokenizer.ggml.fim_pre_token_id" in header.fields),
    )


def template_of(path: Path, names: Sequence[str]) -> str:
    """The chat template as text, wherever it is kept; of several the default one, which is what is used."""
    if "chat_template.jinja" in names:
        return read_text(path / "chat_template.jinja")
    if "tokenizer_config.json" not in names:
        return ""
    template = read_json(path / "tokenizer_config.json").get("chat_template")
    named = [entry for entry in _list(template) if isinstance(entry, dict) and entry.get("name") == "default"]
    if named:
        template = named[0].get("template")
    return template if isinstance(template, str) else ""


def read_text(path: Path) -> str:
    """The text in `path`. Raises Unusable where it is too large, OSError."""
    with path.open("rb") as file:
        content = file.read(_MAX_JSON + 1)
    if len(content) > _MAX_JSON:
        raise Unusable(f"{path.name} is too large")
    return content.decode("utf-8", "replace")


def read_json(path: Path) -> Mapping[str, Any]:
    """The JSON object in `path`. Raises Unusable where it is none, OSError."""
    try:
        document = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise Unusable(f"{path.name} is not JSON") from error
    if not isinstance(document, dict):
        raise Unusable(f"{path.name} is not a JSON object")
    return document


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _positive(value: object) -> int:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_CONTEXT_LENGTH
    return value if good and isinstance(value, int) else 0

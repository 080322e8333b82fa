"""What the files of an installed model say of it, for people and clients who look into it.

Only configuration, headers and the tokenizer's list are read, within bounds.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace

from domain.errors import ModelLoadFailed
from domain.library import ModelDetails
from domain.model import WeightFormat
from models.describe import Unusable, read_json, read_text, template_of
from models.headers import BadHeader, Value, gguf_header, gguf_texts, safetensors_types
from models.installed import InstalledModel, StoredFile

_KEPT = 256
_MAX_LICENCE = 256 << 10
# llama.cpp's numbers for how most tensors of a file are stored.
_GGUF_TYPES = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S"},
    **{12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K"},
    **{19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL"},
    **{26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16"},
}


class DetailsReader:
    """Reads details, and remembers those of the models asked for last until their files change."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, ModelDetails] = OrderedDict()

    def read(self, model: InstalledModel, *, vocabulary: bool) -> ModelDetails:
        """The details of `model`. Raises ModelLoadFailed where its files cannot be read."""
        try:
            found = self._remembered(model)
            words = _vocabulary(model) if vocabulary else ()
        except (Unusable, BadHeader, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ModelLoadFailed(f"'{model.spec.id}' cannot be looked into: {reason}") from error
        spec = model.spec
        return replace(
            found,
            spec=spec,
            basename=found.basename or spec.title,
            parameters=found.parameters or spec.parameters,
            context_length=found.context_length or spec.context_length,
            template=spec.preset.template or found.template,
            licence=spec.licence if spec.preset.parent and spec.licence else found.licence or spec.licence,
            vocabulary=words,
        )

    def _remembered(self, model: InstalledModel) -> ModelDetails:
        with self._lock:
            if model.digest in self._known:
                self._known.move_to_end(model.digest)
                return self._known[model.digest]
        found = _READERS[model.spec.format](model)
        with self._lock:
            self._known[model.digest] = found
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return found


def _of_gguf(model: InstalledModel) -> ModelDetails:
    header = gguf_header(_file(model, lambda name: name.endswith(".gguf")).path)
    fields = header.fields
    architecture = str(fields.get("general.architecture", ""))[:80]

    def count(name: str) -> int:
        return _count(fields.get(f"{architecture}.{name}"))

    return ModelDetails(
        spec=model.spec,
        architecture=architecture,
        basename=_text(fields, "general.basename") or _text(fields, "general.name"),
        quantization=_GGUF_TYPES.get(_count(fields.get("general.file_type"), -1), ""),
        parameters=header.parameters,
        context_length=count("context_length"),
        embedding_length=count("embedding_length"),
        block_count=count("block_count"),
        head_count=count("attention.head_count"),
        head_count_kv=count("attention.head_count_kv"),
        vocabulary_size=header.lengths.get("tokenizer.ggml.tokens", 0),
        template=str(fields.get("tokenizer.chat_template", "")),
        licence=_text(fields, "general.license"),
    )


def _of_safetensors(model: InstalledModel) -> ModelDetails:
    weights = [file.path for file in model.files if "/" not in file.name and file.name.endswith(".safetensors")]
    sizes: dict[str, int] = {}
    for path in weights:
        for kind, size in safetensors_types(path).items():
            sizes[kind] = sizes.get(kind, 0) + size
    return replace(
        _of_configuration(model),
        quantization=max(sizes, key=lambda kind: sizes[kind], default=""),
        parameters=sum(sizes.values()),
    )


def _of_ctranslate2(model: InstalledModel) -> ModelDetails:
    return replace(_of_configuration(model), architecture=model.spec.family)


def _of_configuration(model: InstalledModel) -> ModelDetails:
    names = [file.name for file in model.files]
    config = read_json(model.directory / "config.json") if "config.json" in names else {}
    licence = next((file for file in model.files if file.name.lower() in ("license.txt", "licence.txt")), None)
    return ModelDetails(
        spec=model.spec,
        architecture=str(config.get("model_type", ""))[:80],
        context_length=_count(config.get("max_position_embeddings")),
        embedding_length=_count(config.get("hidden_size")),
        block_count=_count(config.get("num_hidden_layers")),
        head_count=_count(config.get("num_attention_heads")),
        head_count_kv=_count(config.get("num_key_value_heads")),
        vocabulary_size=_count(config.get("vocab_size")),
        template=template_of(model.directory, names),
        licence=read_text(licence.path) if licence is not None and licence.size <= _MAX_LICENCE else "",
    )


def _of_remote(model: InstalledModel) -> ModelDetails:
    return ModelDetails(model.spec)


def _vocabulary(model: InstalledModel) -> tuple[str, ...]:
    """Every token's text, in the order of the ids; empty where the files hold no list of them."""
    if model.spec.format is WeightFormat.GGUF:
        return gguf_texts(_file(model, lambda name: name.endswith(".gguf")).path, "tokenizer.ggml.tokens")
    if not any(file.name == "tokenizer.json" for file in model.files):
        return ()
    document = read_json(model.directory / "tokenizer.json")
    try:
        words = document["model"]["vocab"]
        if isinstance(words, dict):
            numbered = {int(number): str(word) for word, number in words.items()}
        else:
            numbered = {number: str(word) for number, (word, _) in enumerate(words)}
        numbered |= {int(token["id"]): str(token["content"]) for token in document.get("added_tokens", [])}
    except (KeyError, TypeError, ValueError) as error:
        raise Unusable("tokenizer.json is not a tokenizer") from error
    return tuple(numbered[number] for number in sorted(numbered))


def _file(model: InstalledModel, fits: Callable[[str], bool]) -> StoredFile:
    found = next((file for file in model.files if fits(file.name)), None)
    if found is None:
        raise Unusable("its weights are missing")
    return found


def _text(fields: Mapping[str, Value], name: str) -> str:
    return str(fields.get(name, ""))[:200]


def _count(value: object, otherwise: int = 0) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else otherwise


_READERS: Mapping[WeightFormat, Callable[[InstalledModel], ModelDetails]] = {
    WeightFormat.GGUF: _of_gguf,
    WeightFormat.SAFETENSORS: _of_safetensors,
    WeightFormat.CTRANSLATE2: _of_ctranslate2,
    WeightFormat.REMOTE: _of_remote,
}

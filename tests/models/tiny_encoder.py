"""A tiny random BERT with the files of a sentence model, made on the spot; its words are w0, w1, … w199."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from domain.model import LoadOptions, ModelSpec, Task, WeightFormat
from models.embedding.engine import Bounds, EmbeddingEngine
from models.embedding.loader import load_embedding
from models.embedding.placement import place_embedding
from models.inference_thread import InferenceThread

SPEC = ModelSpec("tiny-encoder:latest", "Tiny", Task.EMBEDDING, WeightFormat.SAFETENSORS)
DIMENSIONS = 32
MAX_LENGTH = 48
CONTROL_TOKENS = 2
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
MODULES = ("Transformer", "Pooling", "Normalize")


def word_tokenizer() -> Tokenizer:
    """One id a word."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *(f"w{n}" for n in range(200))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def save_encoder(
    directory: Path,
    *,
    family: str = "bert",
    pooling: Mapping[str, object] | None = None,
    modules: tuple[str, ...] = MODULES,
    settings: Mapping[str, object] | None = None,
    prompts: Mapping[str, object] | None = None,
    **changes: object,
) -> Path:
    """A sentence model on disk; the arguments replace what its files say."""
    directory.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, object] = {
        "vocab_size": 204,
        "hidden_size": DIMENSIONS,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(family, **{**sizes, **changes}), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0).add_(torch.randn_like(parameter) * 0.02)
    model.save_pretrained(directory)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer(), pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    tokenizer.save_pretrained(directory)
    paths = ("", "1_Pooling", "2_Normalize", "3_More")
    chain = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in zip(modules, paths)]  # noqa: B905
    write(directory, "modules.json", chain)
    write(directory, "1_Pooling/config.json", pooling or {"pooling_mode_mean_tokens": True})
    write(directory, "sentence_bert_config.json", settings or {"max_seq_length": MAX_LENGTH, "do_lower_case": False})
    if prompts is not None:
        write(directory, "config_sentence_transformers.json", prompts)
    return directory


def write(directory: Path, name: str, content: object) -> None:
    """`content` as JSON."""
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_text(json.dumps(content), encoding="utf-8")


def load_encoder(
    directory: Path,
    thread: InferenceThread,
    *,
    spec: ModelSpec = SPEC,
    options: LoadOptions | None = None,
    bounds: Bounds | None = None,
) -> EmbeddingEngine:
    """As the repository would load it on a CPU, with passes of 64 tokens."""
    options = options or LoadOptions(device="cpu")
    return load_embedding(
        spec,
        directory,
        placement=place_embedding(options),
        num_ctx=options.num_ctx,
        bounds=bounds or Bounds(step_tokens=64, max_requests=8, max_waiting_tokens=400),
        thread=thread,
        on_progress=lambda _: None,
    )


def words(count: int, first: int = 0) -> str:
    """A text of `count` words, which are as many tokens."""
    return " ".join(f"w{number % 200}" for number in range(first, first + count))

"""From a directory with safetensors to an embedding engine: local files only, no pickles, no code."""

import time
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers import logging as transformers_logging

from domain.errors import InvalidRequest, ModelLoadFailed
from domain.model import Model, ModelSpec, WeightFormat
from domain.repositories import LoadProgress, OnLoadProgress
from models.configuration import check_sizes, refuse_code
from models.embedding.encoder import Encoder
from models.embedding.engine import Bounds, EmbeddingEngine
from models.embedding.placement import Placement
from models.embedding.sentence import SentenceSettings, read_settings
from models.embedding.tokenizer import EncoderTokenizer, read_tokenizer
from models.inference_thread import InferenceThread

# Loads report their own progress; transformers' bars would write into the logs of whoever runs this.
transformers_logging.disable_progress_bar()

# What an encoder reads at most when its files do not say.
_UNSAID_LENGTH = 512


def load_embedding(
    spec: ModelSpec,
    directory: Path,
    *,
    placement: Placement,
    num_ctx: int,
    bounds: Bounds,
    thread: InferenceThread,
    on_progress: OnLoadProgress,
    threads: int = 0,
) -> EmbeddingEngine:
    """Load `spec` from `directory`; blocking, for a worker thread.

    `threads` compute on a CPU, 0 as many as `thread` uses anyway. `num_ctx` 0 takes the length that the model's files
    name; more than its positions reach is cut to them.
    Raises ModelLoadFailed naming the file at fault, InvalidRequest for a `num_ctx` without room for a text.
    """
    began = time.monotonic()
    if spec.format is not WeightFormat.SAFETENSORS:
        raise ModelLoadFailed(f"'{spec.id}' is an encoder as {spec.format}: only safetensors are loaded for embeddings")
    refuse_code(directory)
    settings = read_settings(directory)
    on_progress(LoadProgress("weights", 0, spec.size_bytes))
    model, tokenizer, pad_id, stated = _load(spec, directory, settings, placement.dtype)
    context = _context(model, tokenizer, num_ctx, stated)
    _own(model)
    nn.Module.to(model, placement.device)
    encoder = Encoder(model, settings.pooling, pad_id, placement.device, threads)
    on_progress(LoadProgress("weights", spec.size_bytes, spec.size_bytes))
    on_progress(LoadProgress("warmup", 0, 1))
    dimensions = _warm_up(spec, encoder, context, thread)
    on_progress(LoadProgress("warmup", 1, 1))
    info = Model(spec).loaded(
        device=str(placement.device),
        dtype=placement.dtype_name,
        quantization="none",
        context_length=context,
        memory_bytes=sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())),
        load_time_ms=round((time.monotonic() - began) * 1000),
    )
    return EmbeddingEngine(info, dimensions, tokenizer, encoder, thread, bounds)


def _load(
    spec: ModelSpec, directory: Path, settings: SentenceSettings, dtype: torch.dtype
) -> tuple[PreTrainedModel, EncoderTokenizer, int, int]:
    """Weights, tokenizer, padding token, and the length in tokens that the files name."""
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        check_sizes(config)
        if config.is_encoder_decoder:
            raise ModelLoadFailed(f"'{spec.id}' is an encoder with a decoder: only encoders are loaded for embeddings")
        backend, pad_id, made_for = read_tokenizer(directory)
        loaded = AutoModel.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            low_cpu_mem_usage=True,
            output_loading_info=True,
        )
    except ModelLoadFailed:
        raise
    except Exception as error:  # whatever transformers makes of files that people put here
        reason = str(error).replace(str(directory), directory.name).partition("\n")[0]
        raise ModelLoadFailed(f"{directory.name} cannot be loaded: {reason}") from error
    model, report = loaded
    _refuse_gaps(spec, report)
    model.eval()
    model.requires_grad_(requires_grad=False)
    tokenizer = EncoderTokenizer(
        backend, vocabulary_size=config.vocab_size, prompt=settings.prompt, lower_case=settings.lower_case
    )
    return model, tokenizer, pad_id, settings.max_length or min(made_for, _positions(model))


def _refuse_gaps(spec: ModelSpec, report: dict[str, object]) -> None:
    """What the file lacks would be random numbers: refused, except in the head, which is not used here."""
    missing = report.get("missing_keys")
    assert isinstance(missing, set | list | tuple)
    gaps = sorted(str(key) for key in missing if "pooler." not in str(key))
    if gaps:
        raise ModelLoadFailed(f"the weights of '{spec.id}' lack {gaps[0]} and {len(gaps) - 1} more: pull it again")


def _own(model: PreTrainedModel) -> None:
    """Copy the weights out of the mapped file: somebody may replace or cut that while we serve."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def _positions(model: PreTrainedModel) -> int:
    """How many tokens the model has positions for. Some families (RoBERTa) count theirs from behind the padding."""
    config: PretrainedConfig = model.config
    stated = int(getattr(config, "max_position_embeddings", None) or _UNSAID_LENGTH)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return min(stated, module.num_embeddings - module.padding_idx - 1)
    return stated


def _context(model: PreTrainedModel, tokenizer: EncoderTokenizer, num_ctx: int, stated: int) -> int:
    context = min(num_ctx or stated, _positions(model))
    if context <= tokenizer.control_tokens:
        raise InvalidRequest(
            f"num_ctx must be above {tokenizer.control_tokens}, the control tokens of a text", field="num_ctx"
        )
    return context


def _warm_up(spec: ModelSpec, encoder: Encoder, context: int, thread: InferenceThread) -> int:
    """One pass on the owner thread; weights that give no numbers are found out. Returns the vectors' length."""
    rows = [[1] * min(context, 8), [1]]
    try:
        vectors = thread.call_soon(lambda: encoder.vectors(rows)).result()
    except Exception as error:
        raise ModelLoadFailed(f"'{spec.id}' loads but does not run as an encoder: {type(error).__name__}") from error
    if not torch.isfinite(vectors).all():
        raise ModelLoadFailed(f"'{spec.id}' gives no valid numbers: its weights are damaged or its dtype is too narrow")
    return int(vectors.shape[1])

"""From files to a model in memory: GGUF or safetensors, through the converted copy where that pays."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers import logging as transformers_logging

from domain.errors import ModelLoadFailed
from domain.model import WeightFormat
from domain.repositories import LoadProgress, OnLoadProgress
from models.configuration import check_sizes, refuse_code
from models.text import attention, converted, fusion, skeleton
from models.text.gguf_source import GgufSource
from models.text.moving import move_to
from models.text.native.decoder import NativeDecoder, unsupported
from models.text.native.library import why_not
from models.text.suitability import check_class
from models.text.tokenizer import TextTokenizer

# Loads report their own progress; transformers' bars would write into the logs of whoever runs this.
transformers_logging.disable_progress_bar()


@dataclass(frozen=True, slots=True)
class Precision:
    """How the weights are to be: int8 products or not, and the dtype that everything else computes in."""

    int8: bool
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """A model ready to run, and what is known of it.

    `layers` says how its layers run: `native` in the kernels of `models.text.native`, `fused` in fewer steps than
    transformers takes, `plain` as transformers has them; `why` says why not better, empty for `native`.
    """

    config: PretrainedConfig
    model: PreTrainedModel | NativeDecoder
    tokenizer: TextTokenizer
    layers: str
    why: str
    converted_seconds: float


def convert(
    directory: Path,
    weight_format: WeightFormat,
    converted_directory: Callable[[str], Path],
    precision: Precision,
    on_progress: OnLoadProgress,
    building: AbstractContextManager[object],
) -> float:
    """Make the copy that a load of these weights reads, unless it is there or none is needed; the seconds it took.

    `building` is held while classes of transformers make models, which is unsafe in two threads at once, and not
    while tensors are converted, which takes long. Raises as `load` does.
    """
    if not (precision.int8 or weight_format is WeightFormat.GGUF):
        return 0.0
    copy = converted_directory(layout_of(precision))
    if converted.is_intact(copy):
        return 0.0
    began = time.monotonic()
    _convert(directory, weight_format, copy, precision, on_progress, building)
    return time.monotonic() - began


def load(
    directory: Path,
    weight_format: WeightFormat,
    converted_directory: Callable[[str], Path],
    precision: Precision,
    device: torch.device,
    on_progress: OnLoadProgress,
    *,
    native: bool = False,
) -> LoadedWeights:
    """Load the weights below `directory` (a GGUF file itself, or a directory with safetensors).

    `converted_directory(layout)` is where the copy of that layout lies or will lie. With `native`, layers run in the
    native kernels where those can. Raises ModelLoadFailed naming the file at fault, InsufficientStorage when the copy
    finds no room.
    """
    products = converted.ReadProducts()
    seconds = convert(directory, weight_format, converted_directory, precision, on_progress, nullcontext())
    if precision.int8 or weight_format is WeightFormat.GGUF:
        copy = converted_directory(layout_of(precision))
        model, tokenizer, products = converted.load(copy, precision.dtype, _told(on_progress, "weights", 0))
    else:
        model, tokenizer = _load_directory(directory, precision.dtype)
    config = model.config.get_text_config()
    why = _why_not_native(model, precision, device, native=native)

    def copied(done: int, total: int) -> None:
        products.forget()
        on_progress(LoadProgress("weights", done, total))

    if not why:
        decoder = NativeDecoder(model, copied)
        products.forget()
        return LoadedWeights(config, decoder, tokenizer, "native", "", seconds)
    layers = "fused" if fusion.fuse(model) else "plain"
    if precision.int8:
        products.forget()
        skeleton.pack(model, copied)
    if device.type != "cpu":
        move_to(model, device)
    return LoadedWeights(config, model, tokenizer, layers, why, seconds)


def _why_not_native(model: PreTrainedModel, precision: Precision, device: torch.device, *, native: bool) -> str:
    if not native:
        return "the native kernels were not asked for"
    if device.type != "cpu" or not precision.int8:
        return "native kernels are for int8 on CPUs"
    return why_not() or unsupported(model)


def layout_of(precision: Precision) -> str:
    """The name of the layout that a copy for `precision` has."""
    return converted.layout_name(int8=precision.int8, dtype=precision.dtype)


def prepare(converted_directory: Callable[[str], Path], precision: Precision) -> None:
    """Do ahead of a load what holds the interpreter for long: parse the vocabulary, import the model's classes.

    Does nothing where no converted copy is there yet.
    """
    copy = converted_directory(layout_of(precision))
    if converted.is_intact(copy):
        TextTokenizer.load(copy)
        skeleton.empty_model(converted.read_config(copy), precision.dtype)


def _convert(
    source: Path,
    weight_format: WeightFormat,
    target: Path,
    precision: Precision,
    on_progress: OnLoadProgress,
    building: AbstractContextManager[object],
) -> None:
    if weight_format is WeightFormat.GGUF:
        gguf = GgufSource(source)
        config, tokenizer = gguf.config(), gguf.tokenizer()
        check_sizes(config)
        with building:
            model = skeleton.empty_model(config, precision.dtype)
        tensors = gguf.tensors(model, config)
        total = len(gguf)
    else:
        with building:
            model, tokenizer = _load_directory(source, torch.bfloat16)
        config, state = model.config, model.state_dict()
        tensors, total = iter(state.items()), len(state)
    products = {name for name, _ in skeleton.linears(model)} if precision.int8 else set[str]()
    told = _told(on_progress, "read", total)
    converted.write(target, config, tokenizer, tensors, products=products, dtype=precision.dtype, on_tensor=told)


def _load_directory(directory: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, TextTokenizer]:
    refuse_code(directory)
    attention.register()
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        check_sizes(config)
        check_class(config)
        tokenizer = TextTokenizer.from_directory(directory, _end_ids(directory, config))
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            attn_implementation=attention.NAME,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            low_cpu_mem_usage=True,
        )
    except ModelLoadFailed:
        raise
    except Exception as error:  # whatever transformers makes of files that people put here
        reason = str(error).replace(str(directory), directory.name).partition("\n")[0]
        raise ModelLoadFailed(f"{directory.name} cannot be loaded: {reason}") from error
    model.eval()
    model.requires_grad_(requires_grad=False)
    for name, module in list(model.named_modules()):
        if type(module) is nn.Embedding and model.get_output_embeddings() is not module:
            skeleton.replace(model, name, skeleton.Embedding(module.weight.data, dtype))
    return model, tokenizer


def _end_ids(directory: Path, config: PretrainedConfig) -> tuple[int, ...]:
    ends = getattr(config.get_text_config(), "eos_token_id", None)
    if (directory / "generation_config.json").exists():
        ends = GenerationConfig.from_pretrained(directory, local_files_only=True).eos_token_id or ends
    if ends is None:
        return ()
    return tuple(ends) if isinstance(ends, list | tuple) else (int(ends),)


def _told(on_progress: OnLoadProgress, stage: str, total: int) -> Callable[[int], None]:
    return lambda done: on_progress(LoadProgress(stage, done, total))

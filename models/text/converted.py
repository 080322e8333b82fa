"""The engine's own copy of a model on disk: weights as the kernels want them, so that the second load is quick.

A directory with `config.json`, the tokenizer, `weights.safetensors` and, written last, `complete.json`: a copy
without it is unfinished and is made anew. For an int8 product NAME it holds `NAME.weight` and `NAME.scale`.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from domain.errors import InsufficientStorage, ModelLoadFailed
from models import memory
from models.text.linear import Int8Linear, quantize_rows
from models.text.skeleton import Embedding, empty_model, linears, replace
from models.text.tokenizer import TextTokenizer

LAYOUT = 1
_WEIGHTS = "weights.safetensors"
_COMPLETE = "complete.json"
_ROWS_AT_ONCE = 8192
_STALE_SECONDS = 3600.0

log = logging.getLogger(__name__)

OnTensor = Callable[[int], None]


def layout_name(*, int8: bool, dtype: torch.dtype) -> str:
    """The name of a layout; another version of this file, or other kernels, never read it by mistake."""
    return f"v{LAYOUT}-{'int8' if int8 else str(dtype).removeprefix('torch.')}"


def is_intact(directory: Path) -> bool:
    """Whether a copy is there, whole and as it was written.

    A file whose size and time are those of its writing is believed; another is hashed (a second for each GB).
    """
    try:
        recorded = json.loads((directory / _COMPLETE).read_text(encoding="utf-8"))
        return all(_is_as_written(directory / name, file) for name, file in recorded.items())
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("a converted copy cannot be read and is made anew: %s", type(error).__name__)
        return False


def _is_as_written(path: Path, recorded: dict[str, Any]) -> bool:
    found = path.stat()
    if found.st_size == recorded["size"] and found.st_mtime_ns == recorded["mtime_ns"]:
        return True
    if found.st_size == recorded["size"] and _sha256(path) == recorded["sha256"]:
        return True
    log.warning("%s of a converted copy is damaged: the copy is made anew", path.name)
    return False


def write(
    directory: Path,
    config: PretrainedConfig,
    tokenizer: TextTokenizer,
    tensors: Iterable[tuple[str, torch.Tensor]],
    *,
    products: Collection[str],
    dtype: torch.dtype,
    on_tensor: OnTensor,
) -> None:
    """Make a copy under a temporary name, then put it in its place in one step, unless another one is there by now.

    `products` are the modules that become int8. Raises InsufficientStorage where it cannot be written, and leaves
    nothing then.
    """
    staging: Path | None = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        _sweep(directory)
        staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        save_file(_stored(tensors, config, products, dtype, on_tensor), staging / _WEIGHTS)
        config.save_pretrained(staging)
        tokenizer.save(staging)
        recorded = {file.name: _record(file) for file in staging.iterdir()}
        (staging / _COMPLETE).write_text(json.dumps(recorded), encoding="utf-8")
        _sync(staging)
        staging.chmod(0o755)
        if is_intact(directory):
            return  # somebody else made it meanwhile, and may be reading it
        if directory.exists():
            shutil.rmtree(directory)
        staging.rename(directory)
    except (OSError, SafetensorError) as error:  # the safetensors library tells of a full disk in its own way
        reason = error.strerror if isinstance(error, OSError) else error
        raise InsufficientStorage(f"the converted copy of the model could not be written: {reason}") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _stored(
    tensors: Iterable[tuple[str, torch.Tensor]],
    config: PretrainedConfig,
    products: Collection[str],
    dtype: torch.dtype,
    on_tensor: OnTensor,
) -> dict[str, torch.Tensor]:
    stored: dict[str, torch.Tensor] = {}
    tied = bool(config.get_text_config().tie_word_embeddings)
    for done, (name, tensor) in enumerate(tensors, start=1):
        module = name.removesuffix(".weight")
        if module in products and tensor.dim() == 2:
            _store_product(stored, module, tensor)
        else:
            stored[name] = tensor.to(_resting_dtype(tensor, dtype))
        if tied and name.endswith("embed_tokens.weight") and "lm_head" in products:
            _store_product(stored, "lm_head", tensor)
        on_tensor(done)
    return {name: tensor.contiguous() for name, tensor in stored.items()}


def _store_product(stored: dict[str, torch.Tensor], module: str, weight: torch.Tensor) -> None:
    pieces = [quantize_rows(rows) for rows in weight.split(_ROWS_AT_ONCE)]
    stored[f"{module}.weight"] = torch.cat([piece for piece, _ in pieces])
    stored[f"{module}.scale"] = torch.cat([scale for _, scale in pieces])


def _resting_dtype(tensor: torch.Tensor, dtype: torch.dtype) -> torch.dtype:
    """Tables rest in bfloat16 where the model computes in float32; norms and biases keep their precision."""
    return torch.bfloat16 if dtype is torch.float32 and tensor.dim() == 2 else dtype


def read_config(directory: Path) -> PretrainedConfig:
    """The configuration of a copy."""
    config: PretrainedConfig = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    return config


class ReadProducts:
    """The int8 products as they lie in a file that is mapped into memory, until a kernel has its own copy of them."""

    def __init__(self) -> None:
        # A living tensor keeps the file mapped, so that the addresses stay its own.
        self._weights: list[torch.Tensor] = []

    def add(self, weights: Iterable[torch.Tensor], file: Path) -> None:
        """Remember those of `weights` that are mapped from `file`."""
        spans = memory.mapped_spans(file)
        self._weights += [weight for weight in weights if any(weight.data_ptr() in span for span in spans)]

    def forget(self) -> None:
        """Take what was read so far out of memory; what is read again comes from the file again."""
        for weight in self._weights:
            memory.forget_pages(weight.data_ptr(), weight.nbytes)


def load(
    directory: Path, dtype: torch.dtype, on_tensor: OnTensor
) -> tuple[PreTrainedModel, TextTokenizer, ReadProducts]:
    """The model and its tokenizer, int8 products not packed yet. Raises ModelLoadFailed naming a damaged file."""
    config = read_config(directory)
    tokenizer = TextTokenizer.load(directory)
    model = empty_model(config, dtype)
    products = ReadProducts()
    try:
        with safe_open(directory / _WEIGHTS, framework="pt") as file:
            products.add(_fill(model, file, dtype, on_tensor), directory / _WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ModelLoadFailed(f"{_WEIGHTS} of the converted copy is damaged: {error}") from error
    return model, tokenizer, products


def _fill(model: PreTrainedModel, file: "safe_open", dtype: torch.dtype, on_tensor: OnTensor) -> list[torch.Tensor]:
    """Put the tensors of `file` into `model`; returns those of its int8 products."""
    names = set(file.keys())
    products: list[torch.Tensor] = []
    done = 0
    for name, module in [(name, module) for name, module in linears(model) if f"{name}.scale" in names]:
        bias = file.get_tensor(f"{name}.bias").to(dtype) if module.bias is not None else None
        weight, scale = file.get_tensor(f"{name}.weight"), file.get_tensor(f"{name}.scale")
        products.append(weight)
        replace(model, name, Int8Linear(weight, scale, bias))
        names -= {f"{name}.weight", f"{name}.scale", f"{name}.bias"}
        done += 1
        on_tensor(done)
    for name, module in list(model.named_modules()):
        if type(module) is nn.Embedding and f"{name}.weight" in names:
            replace(model, name, Embedding(file.get_tensor(f"{name}.weight"), dtype))
            names.discard(f"{name}.weight")
    for name, parameter in list(model.named_parameters()):
        if parameter.is_meta:
            if name not in names:
                raise ModelLoadFailed(f"the weights lack the tensor {name}")
            owner, _, leaf = name.rpartition(".")
            tensor = file.get_tensor(name).to(dtype)
            setattr(model.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))
            done += 1
            on_tensor(done)
    return products


def _sweep(directory: Path) -> None:
    """Remove what conversions left behind that were killed; a living one is never this old."""
    for stale in directory.parent.glob(f".{directory.name}-*"):
        if time.time() - stale.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(stale, ignore_errors=True)


def _record(path: Path) -> dict[str, Any]:
    path.chmod(0o644)
    found = path.stat()
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(directory: Path) -> None:
    for file in (*directory.iterdir(), directory):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

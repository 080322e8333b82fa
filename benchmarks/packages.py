"""transformers' own `generate` and `generate_batch`, in bfloat16, from the same weights. A worker: see `worker`."""

import time
from functools import cache
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig, GgufConfig, PreTrainedModel
from transformers import logging as transformers_logging

from benchmarks import loaded_model
from benchmarks.worker import Ask, serve
from domain.model import WeightFormat
from ingle.bootstrap import usable_cores
from models import device as devices


def answer(question: Ask) -> Any:
    """One of three questions about `{"model", "device"}`, by its `do`; rates in tokens a second, lengths in tokens.

    `prompt`, with `{"long_prompt"}`, gives a rate. `generate` and `generate_batch`, with `{"streams", "prompt_tokens",
    "new_tokens"}`, give `[while decoding, end to end]`.
    """
    model = _load(question["model"], question["device"])
    if question["do"] == "prompt":
        return _prompt_rate(model, int(question["long_prompt"]))
    measure = {"generate": _generate, "generate_batch": _generate_batch}[question["do"]]
    return measure(model, *(int(question[key]) for key in ("streams", "prompt_tokens", "new_tokens")))


@cache
def _load(name: str, device: str) -> PreTrainedModel:
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(usable_cores())
    installed = loaded_model.find(name)
    how: dict[str, Any] = {}
    if installed.model.spec.format is WeightFormat.GGUF:
        how = {"gguf_file": installed.source.name, "quantization_config": GgufConfig(dequantize=True)}
    model: Any = AutoModelForCausalLM.from_pretrained(
        installed.model.directory, dtype=torch.bfloat16, local_files_only=True, trust_remote_code=False, **how
    )
    nn.Module.to(model, devices.resolve(device))
    model.eval()
    return cast(PreTrainedModel, model)


def _prompts(model: PreTrainedModel, count: int, tokens: int) -> torch.Tensor:
    return torch.randint(1000, 20_000, (count, tokens), device=model.device)


def _settings(new_tokens: int, **more: Any) -> GenerationConfig:
    return GenerationConfig(
        do_sample=False, min_new_tokens=new_tokens, max_new_tokens=new_tokens, pad_token_id=0, **more
    )


def _seconds(model: Any, prompts: torch.Tensor, new_tokens: int) -> float:
    began = time.perf_counter()
    out = model.generate(prompts, attention_mask=torch.ones_like(prompts), generation_config=_settings(new_tokens))
    seconds = time.perf_counter() - began
    assert out.shape[1] == prompts.shape[1] + new_tokens, "generate ended early"
    return seconds


def _prompt_rate(model: PreTrainedModel, tokens: int) -> float:
    return tokens / _seconds(model, _prompts(model, 1, tokens), 1)


def _generate(model: PreTrainedModel, streams: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
    """A static batch. Reading the prompts and the first token is measured apart and taken off."""
    first = _seconds(model, _prompts(model, streams, prompt_tokens), 1)
    whole = _seconds(model, _prompts(model, streams, prompt_tokens), new_tokens)
    return streams * (new_tokens - 1) / (whole - first), streams * new_tokens / whole


def _generate_batch(model: Any, streams: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
    """Continuous batching, by the times that it notes for each token. End token -1 is its word for none."""
    outputs = model.generate_batch(
        _prompts(model, streams, prompt_tokens).tolist(),
        generation_config=_settings(new_tokens, eos_token_id=-1),
        continuous_batching_config=ContinuousBatchingConfig(),
        record_timestamps=True,
    ).values()
    times = [output.timestamps for output in outputs]
    assert [len(of_one) for of_one in times] == [new_tokens] * streams, "generate_batch ended early"
    began, ended = max(of_one[0] for of_one in times), min(of_one[-1] for of_one in times)
    inside = sum(began < at <= ended for of_one in times for at in of_one)
    whole = max(of_one[-1] for of_one in times) - min(output.created_time for output in outputs)
    return inside / (ended - began), streams * new_tokens / whole


if __name__ == "__main__":
    serve(answer)

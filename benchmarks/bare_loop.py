"""What the kernels do without server, scheduler and sampler, and the floor that memory sets. A worker: see `worker`.

The floor of a decode step is the time that it takes to read every weight of its matrix products once, at the greatest
bandwidth that this machine shows here: copying a large buffer (its bytes counted once read and once written), or
adding one up (counted once). All kernel threads take part, and the better of the two counts, so the floor is strict.
"""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from benchmarks import loaded_model
from benchmarks.worker import Ask, serve
from models.text.linear import Int8Linear
from models.text.native.decoder import NativeDecoder
from models.text.placement import Placement
from models.text.weights import LoadedWeights

_BUFFER_BYTES = 1 << 29
_REPEATS = 4


def answer(question: Ask) -> Any:
    """One of two questions about `{"model", "device"}`, by its `do`.

    `describe` gives `{"kernel", "weight_bytes"}`. `decode`, with `{"streams", "prompt_tokens", "new_tokens"}`, gives
    `{"tokens_per_second", "floor_seconds"}`, measured one right after the other.
    """
    loaded, placement = _load(question["model"], question["device"])
    weight_bytes = product_bytes(loaded)
    if question["do"] == "describe":
        return {"kernel": placement.kernel, "weight_bytes": weight_bytes}
    streams, prompt_tokens, new_tokens = (int(question[key]) for key in ("streams", "prompt_tokens", "new_tokens"))
    return {
        "floor_seconds": weight_bytes / bandwidth(placement.device),
        "tokens_per_second": decode_rate(loaded, placement, streams, prompt_tokens, new_tokens),
    }


@cache
def _load(name: str, device: str) -> tuple[LoadedWeights, Placement]:
    placement = loaded_model.placed(device)
    return loaded_model.find(name).load(placement), placement


def product_bytes(loaded: LoadedWeights) -> int:
    """Bytes of the weights of all matrix products, which every step reads."""
    if isinstance(loaded.model, NativeDecoder):
        return loaded.model.product_bytes
    return sum(
        module.packed_bytes if isinstance(module, Int8Linear) else module.weight.nbytes
        for module in loaded.model.modules()
        if isinstance(module, Int8Linear | nn.Linear)
    )


def bandwidth(device: torch.device) -> float:
    """Bytes a second between memory and this device's cores; see the module."""
    source = torch.ones(_BUFFER_BYTES // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    copying = 2 * _BUFFER_BYTES / _shortest(lambda: target.copy_(source), device)
    reading = _BUFFER_BYTES / _shortest(source.sum, device)
    return max(copying, reading)


def _shortest(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(_REPEATS):
        _wait_for(device)
        began = time.perf_counter()
        work()
        _wait_for(device)
        times.append(time.perf_counter() - began)
    return min(times)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def decode_rate(
    loaded: LoadedWeights, placement: Placement, streams: int, prompt_tokens: int, new_tokens: int
) -> float:
    """Tokens a second of all streams together, greedy, from the second token on."""
    generator = torch.Generator().manual_seed(streams)
    prompts = torch.randint(1000, 20_000, (streams, prompt_tokens), generator=generator).tolist()
    batch = loaded_model.Batch(loaded, placement, prompts, new_tokens)
    for sequence in batch.sequences:
        sequence.append(int(batch.read(sequence).argmax()))
    began = time.perf_counter()
    for _ in range(new_tokens - 1):
        tokens = batch.step().argmax(dim=1).tolist()
        for sequence, token in zip(batch.sequences, tokens, strict=True):
            sequence.append(token)
    return streams * (new_tokens - 1) / (time.perf_counter() - began)


if __name__ == "__main__":
    serve(answer)

"""faster-whisper's two recognisers over the same weights. A worker: see `worker`."""

import time
from functools import cache
from typing import Any

from faster_whisper import BatchedInferencePipeline, WhisperModel

from benchmarks import loaded_model
from benchmarks.worker import Ask, serve
from ingle.bootstrap import usable_cores


def answer(question: Ask) -> Any:
    """`{"seconds": of all files one after another, "texts": of each}`.

    The question: `do` (sequential or batched), `model`, `compute_type`, `files`, `language` (null detects it),
    `timestamps`, and for batched `batch_size`. The model is loaded, and heard once, before the clock runs.
    """
    model = _load(question["model"], question["compute_type"])
    listener: Any = BatchedInferencePipeline(model) if question["do"] == "batched" else model
    wishes: dict[str, Any] = {"beam_size": 1, "language": question["language"]}
    if question["do"] == "batched":
        wishes |= {"batch_size": question["batch_size"], "without_timestamps": not question["timestamps"]}
    started = time.monotonic()
    texts = ["".join(one.text for one in listener.transcribe(file, **wishes)[0]) for file in question["files"]]
    return {"seconds": time.monotonic() - started, "texts": texts}


@cache
def _load(name: str, compute_type: str) -> WhisperModel:
    directory = loaded_model.find(name).model.directory
    return WhisperModel(str(directory), device="cpu", compute_type=compute_type, cpu_threads=usable_cores())


if __name__ == "__main__":
    serve(answer)

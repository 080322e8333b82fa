"""Server-sent events as a client without a library reads them."""

from typing import Any

import httpx2
import orjson

Json = dict[str, Any]

DONE = "[DONE]"


def data_of(response: httpx2.Response) -> list[str]:
    """The data of each event of a whole body, pings left out."""
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    frames = response.text.split("\n\n")
    assert frames.pop() == ""
    assert all(frame.startswith(("data: ", ": ")) for frame in frames)
    return [frame.removeprefix("data: ") for frame in frames if not frame.startswith(":")]


def chunks_of(response: httpx2.Response) -> list[Json]:
    """The chunks of a stream that came to its proper end."""
    *chunks, end = data_of(response)
    assert end == DONE
    return [orjson.loads(chunk) for chunk in chunks]


def deltas_of(chunks: list[Json], index: int = 0) -> list[Json]:
    """The deltas of one choice, in order."""
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]


def text_of(chunks: list[Json], index: int = 0) -> str:
    """The joined content of one choice."""
    return "".join(delta.get("content", "") for delta in deltas_of(chunks, index))

"""Logs: one line an event, whatever the values hold."""

import io
import json
import logging

import pytest
import structlog

from application.events import (
    Event,
    GenerationFinished,
    ModelLoaded,
    ModelLoadRefused,
    ModelResumed,
    ModelSuspended,
    ModelUnloaded,
    SwapFailed,
    TextsEmbedded,
    TranscriptionFinished,
    WorkCancelled,
)
from domain.generation import FinishReason, Timings, Usage
from domain.model import Model, ModelSpec, Task, WeightFormat
from infrastructure.log import EventLog, configure_logging

LOADED = Model(ModelSpec("a:b", "A", Task.TEXT, WeightFormat.GGUF)).loaded(
    device="cpu", dtype="float32", quantization="none", context_length=8, memory_bytes=9, load_time_ms=10
)
EVENTS: list[tuple[Event, dict[str, object]]] = [
    (ModelLoaded(LOADED), {"event": "model loaded", "model": "a:b", "device": "cpu", "memory_bytes": 9}),
    (ModelLoadRefused("a:b", "model_load_failed", "cut"), {"level": "error", "code": "model_load_failed"}),
    (ModelSuspended("a:b", 2, 7), {"event": "model suspended", "requests": 2, "freed_bytes": 7}),
    (ModelResumed("a:b", 2, 0.5), {"event": "model resumed", "requests": 2, "seconds": 0.5}),
    (SwapFailed("cpu", "ear:base", ("a:b",)), {"level": "warning", "failed": "ear:base", "returning": ["a:b"]}),
    (ModelUnloaded("a:b", "expired", 7), {"reason": "expired", "freed_bytes": 7}),
    (
        GenerationFinished("a:b", "r-1", FinishReason.STOP, Usage(3, 4), Timings(queue=0.25)),
        {"request_id": "r-1", "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 4, "queue_ms": 250},
    ),
    (TranscriptionFinished("a:b", "r-1", 11.0, 0.5), {"audio_seconds": 11.0, "total_ms": 500}),
    (TextsEmbedded("a:b", "r-1", 2, 9, 0.5), {"texts": 2, "tokens": 9, "total_ms": 500}),
    (WorkCancelled("a:b", "r-1"), {"event": "work cancelled", "request_id": "r-1"}),
]
HOSTILE = 'a\nb\r\x1b[2J\u202eevil\u2028"}'


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(("event", "said"), EVENTS, ids=lambda value: type(value).__name__)
def test_every_event_becomes_one_json_line_with_its_figures(event: Event, said: dict[str, object]) -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    EventLog()(event)
    [line] = lines(stream)
    assert said.items() <= line.items()
    assert list(line)[:3] == ["ts", "level", "event"]


def test_hostile_values_never_make_a_second_json_line() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    logging.getLogger("library").warning("%s", HOSTILE)
    structlog.get_logger().info("asked", model=HOSTILE)
    assert [line.get("model", line["event"]) for line in lines(stream)] == [HOSTILE, HOSTILE]


def test_the_console_form_shows_control_and_bidirectional_characters_as_escapes() -> None:
    stream = io.StringIO()
    configure_logging("info", "console", stream)
    structlog.get_logger().info("asked", model=HOSTILE)
    written = stream.getvalue()
    assert written.count("\n") == 1
    assert not {"\r", "\x1b", "\u202e", "\u2028"} & set(written)


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_logged_exception_shows_no_local_variable(form: str) -> None:
    stream = io.StringIO()
    configure_logging("info", form, stream)
    prompt = "canary" + "7" * 5
    try:
        int(prompt[:0])
    except ValueError:
        structlog.get_logger().exception("it broke")
    assert "ValueError" in stream.getvalue()
    assert prompt not in stream.getvalue()


def test_what_the_request_bound_is_on_every_line() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    with structlog.contextvars.bound_contextvars(request_id="r-9"):
        logging.getLogger("library").warning("slow")
        structlog.get_logger().info("done")
    assert [line["request_id"] for line in lines(stream)] == ["r-9", "r-9"]


def test_records_below_the_level_and_chatter_of_libraries_stay_out() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    logging.getLogger("ingle").debug("detail")
    logging.getLogger("httpx2").info("GET https://user:secret@host/")
    assert stream.getvalue() == ""


def test_auto_is_json_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    configure_logging("info", "auto", stream)
    structlog.get_logger().info("hello")
    assert lines(stream)[0]["event"] == "hello"

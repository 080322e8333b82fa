"""Logs: one JSON object a line, or a form for people on a terminal.

Records of structlog and of the standard library's logging (uvicorn, libraries) take the same way out. What is
logged never holds a prompt, an answer, a transcript, a key or the path of a user's file.
"""

import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from application.events import (
    DeviceSwapped,
    Event,
    GenerationFinished,
    ModelDeleted,
    ModelLoaded,
    ModelLoadRefused,
    ModelMade,
    ModelPulled,
    ModelResumed,
    ModelSuspended,
    ModelUnloaded,
    SwapFailed,
    TextsEmbedded,
    TranscriptionFinished,
    WorkCancelled,
)

# These say at `info` what only their own authors need; some would print whole addresses.
_CHATTY = (
    "accelerate",
    "asyncio",
    "faster_whisper",
    "filelock",
    "httpcore2",
    "httpx2",
    "huggingface_hub",
    "transformers",
)
# Control characters forge lines, bidirectional marks reverse what a person reads.
_DECEIVING = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def configure_logging(level: str = "info", form: str = "auto", stream: TextIO | None = None) -> None:
    """Send every record of at least `level` to `stream` (default: standard error).

    `form` is json, console, or auto: console if `stream` is a terminal, else json. A later call replaces the
    earlier one.
    """
    stream = stream or sys.stderr
    on_terminal = stream.isatty()
    as_json = form == "json" or (form == "auto" and not on_terminal)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_for_machines() if as_json else _for_people(colors=on_terminal)),
            ],
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel("DEBUG" if level == "debug" else "WARNING")
    logging.captureWarnings(True)


def _for_machines() -> Sequence[Processor]:
    # JSON escapes everything outside ASCII, so no value can break its line.
    return [structlog.processors.format_exc_info, _what_happened_first, structlog.processors.JSONRenderer()]


def _what_happened_first(_logger: WrappedLogger, _method: str, record: EventDict) -> EventDict:
    return {**{key: record[key] for key in ("ts", "level", "event") if key in record}, **record}


def _for_people(*, colors: bool) -> Sequence[Processor]:
    # A plain traceback: the library's own choice shows local variables, and those hold prompts.
    plain = structlog.dev.plain_traceback
    return [_escape, structlog.dev.ConsoleRenderer(colors=colors, timestamp_key="ts", exception_formatter=plain)]


def _escape(_logger: WrappedLogger, _method: str, record: EventDict) -> EventDict:
    """Make what deceives a reader of the terminal visible."""
    for key, value in record.items():
        if isinstance(value, str):
            record[key] = _DECEIVING.sub(lambda found: f"\\u{ord(found[0]):04x}", value)
    return record


class EventLog:
    """Writes what happened to the log: a subscriber of `application.events`."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("ingle")

    def __call__(self, event: Event) -> None:
        """Log one event."""
        match event:
            case ModelLoaded(model):
                self._log.info(
                    "model loaded",
                    model=model.id,
                    device=model.device,
                    dtype=model.dtype,
                    quantization=model.quantization,
                    memory_bytes=model.memory_bytes,
                    load_ms=model.load_time_ms,
                )
            case ModelLoadRefused(model_id, code, reason):
                self._log.error("model load failed", model=model_id, code=code, reason=reason)
            case DeviceSwapped(device, evicted, loaded, seconds, bytes_freed, _, left, came, suspended):
                self._log.info(
                    "models gave way",
                    device=device,
                    evicted=list(evicted),
                    suspended=list(suspended),
                    loaded=loaded,
                    seconds=round(seconds, 3),
                    bytes_freed=bytes_freed,
                    left=left,
                    came=came,
                )
            case ModelSuspended(model_id, requests, bytes_freed):
                self._log.info("model suspended", model=model_id, requests=requests, freed_bytes=bytes_freed)
            case ModelResumed(model_id, requests, seconds):
                self._log.info("model resumed", model=model_id, requests=requests, seconds=round(seconds, 3))
            case SwapFailed(device, model_id, returning):
                self._log.warning(
                    "models that gave way come back", device=device, failed=model_id, returning=list(returning)
                )
            case ModelUnloaded(model_id, reason, bytes_freed):
                self._log.info("model unloaded", model=model_id, reason=reason, freed_bytes=bytes_freed)
            case ModelPulled(model_id):
                self._log.info("model pulled", model=model_id)
            case ModelMade(model_id, base):
                self._log.info("model made", model=model_id, base=base)
            case ModelDeleted(model_id):
                self._log.info("model deleted", model=model_id)
            case GenerationFinished(model_id, request_id, reason, usage, timings):
                self._log.info(
                    "generation finished",
                    model=model_id,
                    request_id=request_id,
                    finish_reason=reason.value,
                    **asdict(usage),
                    **{f"{stage}_ms": round(1000 * seconds) for stage, seconds in asdict(timings).items()},
                )
            case TranscriptionFinished(model_id, request_id, duration, processing_time):
                self._log.info(
                    "transcription finished",
                    model=model_id,
                    request_id=request_id,
                    audio_seconds=round(duration, 2),
                    total_ms=round(1000 * processing_time),
                )
            case TextsEmbedded(model_id, request_id, texts, tokens, seconds):
                self._log.info(
                    "texts embedded",
                    model=model_id,
                    request_id=request_id,
                    texts=texts,
                    tokens=tokens,
                    total_ms=round(1000 * seconds),
                )
            case WorkCancelled(model_id, request_id):
                self._log.info("work cancelled", model=model_id, request_id=request_id)

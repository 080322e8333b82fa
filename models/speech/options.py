"""What a deployment decides about a speech engine."""

from dataclasses import dataclass, replace
from typing import Self

# From 19 to 22 s words are misheard about as often, from recording to recording (`benchmarks.speech_windows`); beyond,
# times get worse.
_CPU_ROWS, _CPU_SECONDS = 8, 22.0
_CUDA_ROWS, _CUDA_SECONDS = 32, 29.0
_BYTES_A_ROW = 256 << 20
"""What a row of 30 s may take on a GPU with a large model, encoding and cache together."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Sizes, and what may wait.

    `rows` are the windows of a batch, `window_seconds` is what a window may hold (9 to 29), 0 is what suits the
    device; without `short_windows` each is padded to 30 s. An idle device waits `batch_wait_seconds` for company.
    Beyond `max_waiting` requests or `max_waiting_audio_seconds` more are refused.
    """

    rows: int = 0
    window_seconds: float = 0.0
    short_windows: bool = True
    batch_wait_seconds: float = 0.03
    max_waiting: int = 512
    max_waiting_audio_seconds: float = 57_600.0

    def on(self, device: str, *, free_bytes: int) -> Self:
        """The same with what `device` decides, where `free_bytes` are left."""
        if device == "cpu":
            rows, seconds = _CPU_ROWS, _CPU_SECONDS
        else:
            rows, seconds = max(1, min(_CUDA_ROWS, free_bytes // _BYTES_A_ROW)), _CUDA_SECONDS
        return replace(self, rows=self.rows or rows, window_seconds=self.window_seconds or seconds)

"""Settings of the speech engine."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from ingle.settings_marks import Shown
from ingle.settings_types import Device, Seconds, lower


def _window(value: float) -> float:
    if value != 0 and not 9 <= value <= 29:
        raise ValueError("must be 0 or between 9 and 29")
    return value


class SpeechSettings(BaseSettings):
    """How recordings are listened to, and how much may wait."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    speech_device: Annotated[Device | None, Shown("the value of INGLE_DEVICE_TYPE")] = None
    """Device of speech models: `auto` (a GPU on which the model proves itself, else the CPU), `cpu`, `cuda` or
    `cuda:N`, which fail where the GPU does."""

    speech_preset: Annotated[Literal["fast", "accurate"], BeforeValidator(lower)] = "fast"
    """How speech is decoded where a caller does not say: `fast` (greedy) or `accurate` (beam search, 5 wide)."""

    speech_batch_size: Annotated[int, Field(ge=0, le=64)] = 0
    """Windows of speech that are decoded together; 0 is 8 on CPU and what the free memory allows on a GPU."""

    speech_batch_wait: Seconds = 0.03
    """How long an idle device waits for a second recording before it starts on the first."""

    speech_window_seconds: Annotated[float, AfterValidator(_window)] = 0.0
    """Most speech in a window, 9 to 29 seconds; 0 is 22 on CPU and 29 on a GPU."""

    speech_short_windows: bool = True
    """Whether short windows are decoded short; without it each is padded to 30 seconds, as Whisper was trained."""

    max_queue_audio_seconds: Annotated[float, Field(gt=0, le=100_000_000)] = 57_600.0
    """Seconds of audio that may wait for a speech model before further recordings are refused with 503."""

    audio_formats: Annotated[str, Field(pattern=r"^[a-z0-9_]+(,[a-z0-9_]+)*$")] = (
        "wav,mp3,flac,ogg,mov,matroska,aac,aiff,amr,caf,mpegts"
    )
    """Containers that uploads may have, by FFmpeg's names of demuxers."""

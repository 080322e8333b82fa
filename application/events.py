"""What happened, as frozen records. They are for watching (logs, metrics), never for control."""

from collections.abc import Callable
from dataclasses import dataclass

from domain.generation import FinishReason, Timings, Usage
from domain.model import Model


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """A model came into memory."""

    model: Model


@dataclass(frozen=True, slots=True)
class ModelLoadRefused:
    """A load failed; `reason` is for people."""

    model_id: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelUnloaded:
    """A model left memory because of `reason`: asked, expired, evicted, replaced or shutdown."""

    model_id: str
    reason: str
    bytes_freed: int


@dataclass(frozen=True, slots=True)
class DeviceSwapped:
    """A device went from some models to another: `seconds` from the wish to the end of its load.

    `suspended` are models that were in use and go on in their turn. `at` is when, in seconds since the epoch;
    `left` and `came` are the groups of the device that made room and got it.
    """

    device: str
    evicted: tuple[str, ...]
    loaded: str
    seconds: float
    bytes_freed: int
    at: float
    left: str
    came: str
    suspended: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSuspended:
    """A model had to leave its device at the end of its hold: `requests` are open and wait for its return."""

    model_id: str
    requests: int
    bytes_freed: int


@dataclass(frozen=True, slots=True)
class ModelResumed:
    """A suspended model is back, `seconds` after it had gone, and goes on with `requests`."""

    model_id: str
    requests: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SwapFailed:
    """Models had to leave a device for `model_id`, whose load then failed: `returning` are being loaded again."""

    device: str
    model_id: str
    returning: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GenerationFinished:
    """An answer was written to its end."""

    model_id: str
    request_id: str
    reason: FinishReason
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class TranscriptionFinished:
    """A recording was written down to its end; times in seconds."""

    model_id: str
    request_id: str
    duration: float
    processing_time: float


@dataclass(frozen=True, slots=True)
class TextsEmbedded:
    """Every text of a request has its vector; `seconds` without the wait for the load."""

    model_id: str
    request_id: str
    texts: int
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class WorkCancelled:
    """The caller left, or somebody cancelled, before the end."""

    model_id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class ModelPulled:
    """A model was fetched, or found to be here already."""

    model_id: str


@dataclass(frozen=True, slots=True)
class ModelMade:
    """A model was made from `base`, by a copy or with a preset of its own."""

    model_id: str
    base: str


@dataclass(frozen=True, slots=True)
class ModelDeleted:
    """A model left the disk."""

    model_id: str


Event = (
    ModelLoaded
    | ModelPulled
    | ModelMade
    | ModelDeleted
    | ModelLoadRefused
    | ModelUnloaded
    | DeviceSwapped
    | SwapFailed
    | ModelSuspended
    | ModelResumed
    | GenerationFinished
    | TranscriptionFinished
    | TextsEmbedded
    | WorkCancelled
)
Publish = Callable[[Event], None]

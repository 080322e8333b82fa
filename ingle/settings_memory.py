"""Settings of how much memory models may take, and of how they share it."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from ingle.settings_marks import From
from ingle.settings_types import Seconds


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class MemorySettings(BaseSettings):
    """What the operator leaves to models."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    max_memory_usage: Annotated[float, From("MAX_MEMORY_USAGE"), Field(gt=0, le=1)] = 0.9
    """Share of the machine's memory (or of the cgroup's limit) above which new requests are refused with 503.

    0.05 below it idle models leave memory, and none is loaded.
    """

    min_memory_gb: Annotated[float, From("MIN_MEMORY_GB"), Field(ge=0, le=1_000_000)] = 2.0
    """Memory in GiB that must stay free after a load; a model that would take it is refused with 507."""

    memory_budget_gb: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """Most memory in GiB that this process may hold, models included; 0 leaves it to the two settings above."""

    gpu_memory_fraction: Annotated[float, From("GPU_MEMORY_FRACTION"), Field(gt=0, le=1)] = 0.8
    """Share of each GPU that all models together may take."""

    device_sharing: Annotated[Literal["auto", "shared", "exclusive"], BeforeValidator(_lower)] = "auto"
    """Whether speech and text models may be on one device at once: `auto` where both fit, `shared`, `exclusive`."""

    device_max_hold: Seconds = 30.0
    """How long a model that does not fit waits for busy ones to finish and leave. Then text is suspended for speech and
    speech for text, to go on in its turn; for other models, and with 0, it is refused with 503."""

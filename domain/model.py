"""Models: what is known of one on disk (`ModelSpec`), how to place it, and the one in memory (`Model`)."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Self

from domain.caveat import Caveat
from domain.errors import InvalidRequest, ModelNotLoaded
from domain.preset import Preset
from domain.rung import Rung


class Task(StrEnum):
    """What a model is for."""

    TEXT = "text"
    SPEECH = "speech"
    EMBEDDING = "embedding"


class WeightFormat(StrEnum):
    """How the weights lie on disk; REMOTE ones lie with a provider, and nothing of them is here."""

    GGUF = "gguf"
    SAFETENSORS = "safetensors"
    CTRANSLATE2 = "ctranslate2"
    REMOTE = "remote"


DEVICE_PATTERN = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("auto", "none", "int8")
MAX_CONTEXT_LENGTH = 1 << 21
MAX_PARALLEL = 1024
MAX_THREADS = 1024


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model is wanted in memory. `auto` and 0 leave the choice to the machine.

    `num_parallel` is how many sequences of a text model share a step, `threads` how many threads compute on a CPU: no
    more than the server may use.

    Raises InvalidRequest for a value that exists on no machine; whether the device exists on *this* one
    is found out by the repository (DeviceNotAvailable).
    """

    device: str = "auto"
    dtype: str = "auto"
    quantization: str = "auto"
    num_ctx: int = 0
    num_parallel: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        if not DEVICE_PATTERN.fullmatch(self.device):
            raise InvalidRequest("device must be auto, cpu, cuda or cuda:N", field="device")
        if self.dtype not in DTYPES:
            raise InvalidRequest(f"dtype must be one of {', '.join(DTYPES)}", field="dtype")
        if self.quantization not in QUANTIZATIONS:
            raise InvalidRequest(f"quantization must be one of {', '.join(QUANTIZATIONS)}", field="quantization")
        if not 0 <= self.num_ctx <= MAX_CONTEXT_LENGTH:
            raise InvalidRequest(f"num_ctx must be between 0 and {MAX_CONTEXT_LENGTH}", field="num_ctx")
        if not 0 <= self.num_parallel <= MAX_PARALLEL:
            raise InvalidRequest(f"num_parallel must be between 0 and {MAX_PARALLEL}", field="num_parallel")
        if not 0 <= self.threads <= MAX_THREADS:
            raise InvalidRequest(f"threads must be between 0 and {MAX_THREADS}", field="threads")

    def completed_by(self, defaults: "LoadOptions") -> "LoadOptions":
        """These options, with those of `defaults` where these leave the choice open."""
        return LoadOptions(
            device=defaults.device if self.device == "auto" else self.device,
            dtype=defaults.dtype if self.dtype == "auto" else self.dtype,
            quantization=defaults.quantization if self.quantization == "auto" else self.quantization,
            num_ctx=self.num_ctx or defaults.num_ctx,
            num_parallel=self.num_parallel or defaults.num_parallel,
            threads=self.threads or defaults.threads,
        )


@dataclass(frozen=True, slots=True)
class Residence:
    """How the operator wants one model to be in memory, where a request does not say.

    `keep_alive` is in seconds, or FOREVER; None is the server's own. A pinned model never leaves by itself;
    `preload` brings it into memory when the server starts.
    """

    options: LoadOptions = field(default_factory=LoadOptions)
    keep_alive: float | None = None
    pinned: bool = False
    preload: bool = False

    def over(self, known: "Residence") -> "Residence":
        """This wish; options that it leaves open are those of `known`."""
        return replace(self, options=self.options.completed_by(known.options))


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model that is, or could be, on this machine's disk.

    `id` is the full name with its tag (`qwen2.5-coder:0.5b`); `size_bytes` counts the stored files;
    `context_length` is the model's own limit in tokens, 0 where the notion does not apply. `digest` changes
    whenever the stored files do, and `modified_at` (seconds since the epoch) says when they last did: empty and 0
    for a model that is not installed. `preset` is what it brings along of its own, `residence` what the operator
    wants for it.
    """

    id: str
    title: str
    task: Task
    format: WeightFormat
    family: str = ""
    context_length: int = 0
    size_bytes: int = 0
    parameters: int = 0
    licence: str = ""
    hub_id: str | None = None
    capabilities: tuple[str, ...] = ()
    digest: str = ""
    modified_at: float = 0.0
    preset: Preset = field(default_factory=Preset)
    residence: Residence = field(default_factory=Residence)


@dataclass(frozen=True, slots=True)
class Model:
    """A model as an entity: same `id`, same model, wherever it is and however it is loaded.

    `kernel` says in words how its layers run, and why not faster. `compute_type` is the runtime's own word, where it
    has one, and `rungs` are the attempts of this load; `caveats` are what callers should know about all its answers.
    """

    spec: ModelSpec
    is_loaded: bool = False
    device: str = ""
    dtype: str = ""
    quantization: str = ""
    context_length: int = 0
    memory_bytes: int = 0
    load_time_ms: int = 0
    kernel: str = ""
    compute_type: str = ""
    rungs: tuple[Rung, ...] = ()
    caveats: tuple[Caveat, ...] = ()

    @property
    def id(self) -> str:
        """The installed name."""
        return self.spec.id

    @property
    def name(self) -> str:
        """The title for people."""
        return self.spec.title

    @property
    def task(self) -> Task:
        """What it is for."""
        return self.spec.task

    def loaded(
        self,
        *,
        device: str,
        dtype: str,
        quantization: str,
        context_length: int,
        memory_bytes: int,
        load_time_ms: int,
        kernel: str = "",
        compute_type: str = "",
        rungs: tuple[Rung, ...] = (),
        caveats: tuple[Caveat, ...] = (),
    ) -> Self:
        """The same model, now in memory."""
        return replace(
            self,
            is_loaded=True,
            device=device,
            dtype=dtype,
            quantization=quantization,
            context_length=context_length,
            memory_bytes=memory_bytes,
            load_time_ms=load_time_ms,
            kernel=kernel,
            compute_type=compute_type,
            rungs=rungs,
            caveats=caveats,
        )

    def unloaded(self) -> Self:
        """The same model, no longer in memory. Raises ModelNotLoaded if it was not."""
        if not self.is_loaded:
            raise ModelNotLoaded(f"model '{self.id}' is not in memory")
        return type(self)(self.spec)

    def satisfies(self, options: LoadOptions) -> bool:
        """Whether a caller who asks for `options` can use this model as it stands in memory."""
        return (
            (options.device in ("auto", self.device) or options.device == self.device.split(":")[0])
            and options.dtype in ("auto", self.dtype)
            and options.quantization in ("auto", self.quantization)
            and options.num_ctx <= self.context_length
        )


# -- names --------------------------------------------------------------------------------------------

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,79}"
_NAME = re.compile(rf"(?:{_PART}/){{0,2}}{_PART}(?::{_PART})?")


def is_valid_name(name: str) -> bool:
    """Whether `name` has the form `[host/][namespace/]model[:tag]`; the only names that may reach a path."""
    return bool(_NAME.fullmatch(name)) and ".." not in name


def resolve_name(name: str, installed: Iterable[ModelSpec], aliases: Mapping[str, str]) -> ModelSpec | None:
    """The installed model that `name` means, or None.

    Tried in order, without regard to case: exact name, alias, `name:latest` (or `name` for that), the only
    installed tag of `name`, the hub id of an installed model, the catch-all alias `*`. The target of an alias may
    be written in any of these ways, except as another alias.
    """
    by_id = {spec.id.lower(): spec for spec in installed}
    targets = {alias.lower(): target.strip().lower() for alias, target in aliases.items()}
    wanted = name.strip().lower()
    return (
        by_id.get(wanted)
        or _find_unaliased(targets.get(wanted), by_id)
        or _find_unaliased(wanted, by_id)
        or _find_unaliased(targets.get("*"), by_id)
    )


def _find_unaliased(wanted: str | None, by_id: Mapping[str, ModelSpec]) -> ModelSpec | None:
    if not wanted:
        return None
    if found := by_id.get(wanted) or by_id.get(f"{wanted}:latest"):
        return found
    if found := by_id.get(wanted.removesuffix(":latest")):
        return found
    tags = [spec for id_, spec in by_id.items() if id_.partition(":")[0] == wanted]
    if len(tags) == 1:
        return tags[0]
    return next((spec for spec in by_id.values() if spec.hub_id is not None and spec.hub_id.lower() == wanted), None)


def nearest_names(name: str, candidates: Iterable[str], limit: int = 3) -> Sequence[str]:
    """Up to `limit` of `candidates` that a person who typed `name` may have meant, best first."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    return [by_lower[match] for match in difflib.get_close_matches(name.lower()[:200], by_lower, n=limit, cutoff=0.5)]

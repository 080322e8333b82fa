"""The models on disk as something that is looked into and changed: pulls, what a model is, models made from others."""

from dataclasses import dataclass, field, replace
from enum import StrEnum

from domain.model import ModelSpec
from domain.preset import Preset


class PullStage(StrEnum):
    """How far a pull is."""

    MANIFEST = "manifest"
    FILES = "files"
    VERIFYING = "verifying"
    PUBLISHING = "publishing"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class PullProgress:
    """A step of a pull: `completed` of `total` bytes of `file`.

    `digest` is the file's sha256, 64 hex digits, the same in all of its steps, and empty where nobody knows it
    beforehand. `file` is empty outside the stages FILES and VERIFYING.
    """

    stage: PullStage
    file: str = ""
    completed: int = 0
    total: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """What the stored files say of a model.

    `architecture` is the files' own word for it (`qwen2`), `quantization` that of the weights as they are stored
    (`Q4_K_M`, `BF16`). Counts are 0, and texts empty, where the files do not say. `template` is the chat template in
    Jinja, `licence` a text or an SPDX name. `vocabulary` is filled on request only, in the order of the token ids.
    """

    spec: ModelSpec
    architecture: str = ""
    basename: str = ""
    quantization: str = ""
    parameters: int = 0
    context_length: int = 0
    embedding_length: int = 0
    block_count: int = 0
    head_count: int = 0
    head_count_kv: int = 0
    vocabulary_size: int = 0
    template: str = ""
    licence: str = ""
    vocabulary: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewModel:
    """A model to be made: the weights of `base`, under `name`, with a preset of its own.

    What `preset` leaves open is taken from the base's own preset, and so is the licence. Its `parent` is ignored.
    """

    name: str
    base: str
    preset: Preset = field(default_factory=Preset)
    licence: str = ""


def inherited(preset: Preset, base: ModelSpec) -> Preset:
    """`preset`, with what it leaves open from that of `base`, whose name becomes the parent."""
    given = dict(preset.parameters)
    return replace(
        preset,
        system=base.preset.system if preset.system is None else preset.system,
        parameters=tuple(sorted({**dict(base.preset.parameters), **given}.items())),
        messages=preset.messages or base.preset.messages,
        template=preset.template or base.preset.template,
        parent=base.id,
    )

"""How a sentence model wants its texts prepared and its token states pooled, as its own files say.

The files are those of sentence-transformers (modules.json, 1_Pooling/config.json, sentence_bert_config.json). What
they ask for and is not offered here is refused: vectors that differ from the model's own are of no use.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from domain.errors import ModelLoadFailed
from domain.model import MAX_CONTEXT_LENGTH
from models.configuration import read_json, read_object

_MODULES = "modules.json"
_SETTINGS = "sentence_bert_config.json"
_PROMPTS = "config_sentence_transformers.json"
_POOLING_FOLDER = "1_Pooling"
_POOLING_FILE = f"{_POOLING_FOLDER}/config.json"
_MODE = "pooling_mode"


class Pooling(StrEnum):
    """How the states of a text's tokens become one vector."""

    MEAN = "mean"
    CLS = "cls"


# The keys of 1_Pooling/config.json, each true or false.
_MODE_KEYS = {f"{_MODE}_mean_tokens": Pooling.MEAN, f"{_MODE}_cls_token": Pooling.CLS}


@dataclass(frozen=True, slots=True)
class SentenceSettings:
    """`max_length` in tokens, None where the files do not say; `prompt` goes before every text."""

    pooling: Pooling = Pooling.MEAN
    max_length: int | None = None
    lower_case: bool = False
    prompt: str = ""


def read_settings(directory: Path) -> SentenceSettings:
    """What the files in `directory` say; mean pooling where they say nothing, as sentence-transformers has it.

    Raises ModelLoadFailed naming the file that is damaged or asks for what is not offered.
    """
    _check_modules(directory)
    pooling = read_object(directory, _POOLING_FILE) if (directory / _POOLING_FILE).is_file() else {}
    settings = read_object(directory, _SETTINGS) if (directory / _SETTINGS).is_file() else {}
    prompt = _default_prompt(directory)
    if prompt and pooling.get("include_prompt") is False:
        raise ModelLoadFailed(f"{_POOLING_FILE} leaves the prompt out of the pooling, which is not offered here")
    return SentenceSettings(
        pooling=_mode(pooling),
        max_length=_max_length(settings),
        lower_case=settings.get("do_lower_case") is True,
        prompt=prompt,
    )


def _check_modules(directory: Path) -> None:
    """The chain of modules must be one that we run; without modules.json it is transformer and pooling."""
    if not (directory / _MODULES).is_file():
        return
    modules = read_json(directory, _MODULES)
    if not (isinstance(modules, list) and all(isinstance(module, dict) for module in modules)):
        raise ModelLoadFailed(f"{_MODULES} is not a list of modules")
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelLoadFailed(f"{_MODULES} chains {', '.join(kinds)[:200]}: only Transformer, Pooling, Normalize work")
    if modules[0].get("path") or modules[1].get("path") != _POOLING_FOLDER:
        raise ModelLoadFailed(f"{_MODULES} must keep the Transformer at the top and the pooling in {_POOLING_FOLDER}")


def _mode(pooling: dict[str, Any]) -> Pooling:
    """Files name one mode (`"pooling_mode": "mean"`) or switch each mode on or off; several would be joined."""
    wanted = pooling.get(_MODE)
    if wanted is None:
        switched_on = [key for key, value in pooling.items() if key.startswith(f"{_MODE}_") and value is True]
        modes = [str(_MODE_KEYS.get(key, key)) for key in switched_on] or [str(Pooling.MEAN)]
    else:
        modes = [str(mode) for mode in wanted] if isinstance(wanted, list) else [str(wanted)]
    if len(modes) != 1 or modes[0] not in list(Pooling):
        raise ModelLoadFailed(f"{_POOLING_FILE} asks for pooling by {', '.join(modes)[:200]}: mean and cls are offered")
    return Pooling(modes[0])


def _max_length(settings: dict[str, Any]) -> int | None:
    found = settings.get("max_seq_length")
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or not 0 < found <= MAX_CONTEXT_LENGTH:
        raise ModelLoadFailed(f"{_SETTINGS} gives max_seq_length as {str(found)[:80]}")
    return found


def _default_prompt(directory: Path) -> str:
    if not (directory / _PROMPTS).is_file():
        return ""
    config = read_object(directory, _PROMPTS)
    name, prompts = config.get("default_prompt_name"), config.get("prompts")
    if name is None:
        return ""
    prompt = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    if not isinstance(prompt, str):
        raise ModelLoadFailed(f"{_PROMPTS} names a default prompt that it does not hold")
    return prompt

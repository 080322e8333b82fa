"""What a Whisper checkpoint was trained for, and whether a request asks for more."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from domain.errors import UnsupportedCapability
from domain.model import ModelSpec
from domain.transcription import SpeechTask, TranscriptionRequest

# Nothing in a checkpoint's files tells that it was trained without translation: its name does.
_WITHOUT_TRANSLATION = re.compile(r"turbo|distil|\.en\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Abilities:
    """`languages` are the codes that the checkpoint writes; with one of them there is nothing to detect."""

    name: str
    languages: frozenset[str]
    translates: bool

    @classmethod
    def of(cls, spec: ModelSpec, languages: frozenset[str]) -> Self:
        """The abilities of the checkpoint that `spec` names."""
        names = " ".join(filter(None, (spec.id, spec.title, spec.hub_id)))
        return cls(spec.id, languages, len(languages) > 1 and not _WITHOUT_TRANSLATION.search(names))

    def language_for(self, request: TranscriptionRequest) -> str | None:
        """The code to listen in, or None to detect it.

        Raises UnsupportedCapability for a language that this model does not know, and for a translation that it
        was not trained for.
        """
        if request.task is SpeechTask.TRANSLATE and not self.translates:
            raise UnsupportedCapability(
                f"model '{self.name}' cannot translate: choose one that can, such as whisper:base", field="task"
            )
        code = request.language
        if code is not None and code not in self.languages:
            raise UnsupportedCapability(f"model '{self.name}' does not know language '{code}'", field="language")
        self.check_languages(request.languages)
        return code if code is not None else self.only_language

    @property
    def only_language(self) -> str | None:
        """What everything is in, if there is no choice."""
        return next(iter(self.languages)) if len(self.languages) == 1 else None

    def check_languages(self, languages: Sequence[str]) -> None:
        """Raise UnsupportedCapability if this model does not know one of `languages`."""
        for code in languages:
            if code not in self.languages:
                raise UnsupportedCapability(f"model '{self.name}' does not know language '{code}'", field="languages")

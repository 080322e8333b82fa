"""A Whisper checkpoint in CTranslate2's layout, in memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import ctranslate2
import tokenizers

from domain.languages import LANGUAGES
from models import tokenizer_files


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weights and the vocabulary; both are read-only."""

    model: ctranslate2.models.Whisper
    tokenizer: tokenizers.Tokenizer
    lanes: int = 1
    """How many calls the model works on at the same time, with a copy of the weights for each."""

    @classmethod
    def load(
        cls, directory: Path, *, device: str, device_index: int, compute_type: str, cpu_threads: int, lanes: int = 1
    ) -> Self:
        """Load local files only; the lanes share `cpu_threads`.

        Raises RuntimeError, ValueError and what the tokenizers library raises.
        """
        model = ctranslate2.models.Whisper(
            str(directory),
            device=device,
            device_index=device_index,
            compute_type=compute_type,
            intra_threads=max(1, cpu_threads // lanes),
            inter_threads=lanes,
        )
        return cls(model, tokenizer_files.parsed(directory / "tokenizer.json"), lanes)

    def come_back(self) -> None:
        """Move weights that wait in host memory onto their device. Raises RuntimeError where they do not fit.

        Their copy in host memory stays, so that they can give way again without being moved.
        """
        self.model.load_model(keep_cache=True)

    def languages(self) -> frozenset[str]:
        """The codes that the vocabulary has tokens for; English alone if the model knows nothing else."""
        if not self.model.is_multilingual:
            return frozenset({"en"})
        return frozenset(code for code in LANGUAGES if self.tokenizer.token_to_id(f"<|{code}|>") is not None)

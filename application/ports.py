"""The seams to the outside, each with its contract. Implementations live in `models` and `infrastructure`."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from domain.embedding import EmbeddingInput, Embeddings
from domain.generation import GenerationRequest, TextChunk
from domain.prompt import Prompt
from domain.repositories import LoadedModel
from domain.transcription import TranscriptionEvent, TranscriptionRequest


class TextModel(LoadedModel, Protocol):
    """A causal language model.

    * `generate` yields at least one chunk for each of the request's `n` answers, those of different answers in any
      order; the last chunk of each, and only it, has `finish`, and the generator ends after the n-th.
    * A constraint is enforced: an answer that ended with FinishReason.STOP has its form. One that cannot be enforced
      is refused before the first chunk.
    * Closing the generator is the one cancel signal: the work stops within one step, whether it was waiting,
      reading the prompt or writing.
    * Many generators may be open at once; each gets the text that it would get alone.
    * Before its first chunk it raises ContextLengthExceeded, InvalidRequest (token id outside the vocabulary, a
      constraint that does not compile), Overloaded, DeadlineExceeded; GenerationFailed at any time. A failing request
      fails alone.
    """

    def generate(self, request: GenerationRequest) -> AsyncGenerator[TextChunk, None]:
        """Answer `request`, piece by piece."""
        ...

    async def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The tokens that the model reads for `prompt`, control tokens and template included."""
        ...

    async def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids`. Raises InvalidRequest for an id outside the vocabulary."""
        ...


class SpeechModel(LoadedModel, Protocol):
    """A speech recogniser.

    * `audio` is a file that this program named and owns (or that the person at the CLI named); its bytes are
      untrusted and reach the decoder as an open file object, never as a name.
    * `transcribe` yields Progress and Segments in time order and, last, exactly one Transcript.
    * Closing the generator cancels. Before its first event it raises AudioRefused (and its kinds),
      UnsupportedCapability, Overloaded, DeadlineExceeded; GenerationFailed at any time.
    """

    def transcribe(self, audio: Path, request: TranscriptionRequest) -> AsyncGenerator[TranscriptionEvent, None]:
        """Write down what is said in `audio`."""
        ...


class EmbeddingModel(LoadedModel, Protocol):
    """Turns texts into vectors.

    * `embed` gives one vector for each text, in order; a text has the same vector (to 1e-6) alone and in a batch.
    * Vectors have length 1, also after a cut to `dimensions`; with `normalize` false they are as the model pools
      them. `dimensions` at or above the model's own changes nothing.
    * A text beyond the context is cut to it, control tokens kept; with `truncate` false it raises
      ContextLengthExceeded. Token counts are of what was read.
    * Nothing to embed, or an empty text, raises InvalidRequest; so does a token id outside the vocabulary.
    * Cancelling the awaiting task ends the work within one step. Many calls may be open at once and share steps;
      a caller with one text does not wait for all of a caller with many.
    * Raises Overloaded at once, GenerationFailed at any time; a failing step fails the calls that it served.
    """

    @property
    def dimensions(self) -> int:
        """The length of the model's own vectors."""
        ...

    async def embed(
        self,
        texts: Sequence[EmbeddingInput],
        *,
        truncate: bool = True,
        dimensions: int | None = None,
        normalize: bool = True,
    ) -> Embeddings:
        """The vectors of `texts`."""
        ...


@dataclass(frozen=True, slots=True)
class Gpu:
    """A usable GPU."""

    index: int
    name: str
    total_bytes: int
    capability: str


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """What this machine is. Nothing in it names a path."""

    cpu_model: str
    cpu_cores: int
    cpu_threads: int
    isa: tuple[str, ...]
    gpus: tuple[Gpu, ...]
    kernels: dict[str, str]
    versions: dict[str, str]
    models_free_bytes: int


class SystemProbe(Protocol):
    """Tells what the machine is. Cheap after the first call; never blocks for more than a few milliseconds."""

    def system_info(self) -> SystemInfo:
        """The machine as it is now."""
        ...

    def devices(self) -> Sequence[str]:
        """The devices that a load may name, `cpu` first."""
        ...


class Clock(Protocol):
    """Time. `monotonic` in seconds for durations; `now` in seconds since the epoch for people."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        ...

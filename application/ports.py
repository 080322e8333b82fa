"""The seams to the outside, each with its contract. Implementations live in `models` and `infrastructure`."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from domain.embedding import EmbeddingInput, Embeddings
from domain.generation import GenerationRequest, TextChunk
from domain.library import ModelDetails, NewModel, PullProgress
from domain.model import ModelSpec
from domain.prompt import Prompt
from domain.repositories import LoadedModel
from domain.transcription import (
    DetectedLanguage,
    DetectionRequest,
    SpeechQueue,
    TranscriptionEvent,
    TranscriptionRequest,
)


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


class TextModel(EmbeddingModel, Protocol):
    """A causal language model.

    * It embeds by pooling the last token of a text, or refuses that (UnsupportedCapability).
    * `generate` yields at least one chunk for each of the request's `n` answers, those of different answers in any
      order; the last chunk of each, and only it, has `finish`, and the generator ends after the n-th.
    * A constraint is enforced: an answer that ended with FinishReason.STOP has its form. One that cannot be enforced
      is refused before the first chunk.
    * Calls that a tool choice requires are made, of the tools that it names and with arguments that their schemas
      allow, and then there is no text for a constraint to shape. Beside tools that may be called, a constraint
      leaves the choice between its form and calls. Forms begin where thinking ends.
    * `logprobs` are of the tokens of `text`; those of thinking, of calls and of marks are not told.
    * Closing the generator is the one cancel signal: the work stops within one step, whether it was waiting,
      reading the prompt or writing.
    * Many generators may be open at once; each gets the text that it would get alone.
    * Before its first chunk it raises ContextLengthExceeded, InvalidRequest (token id outside the vocabulary, a
      constraint or a tool's schema that does not compile), UnsupportedCapability, Overloaded, DeadlineExceeded;
      GenerationFailed at any time. A failing request fails alone.
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
    * `transcribe` yields Progress first, LanguageHeard once it is known, Segments in time order and, last, exactly one
      Transcript; the texts of the segments join to its text. Silence has neither LanguageHeard nor Segments.
    * Many generators may be open at once and share batches; each gets the text that it would get alone.
    * `detect_language` encodes each window once and decodes nothing.
    * Closing the generator, or cancelling the awaiting task, cancels. Before its first event `transcribe` raises
      AudioRefused (and its kinds), UnsupportedCapability, Overloaded, DeadlineExceeded; what is wrong with the audio
      further on, and GenerationFailed, at any time. A failing request fails alone.
    """

    @property
    def queue(self) -> SpeechQueue:
        """What is to be done, now."""
        ...

    def transcribe(self, audio: Path, request: TranscriptionRequest) -> AsyncGenerator[TranscriptionEvent, None]:
        """Write down what is said in `audio`."""
        ...

    async def detect_language(self, audio: Path, request: DetectionRequest) -> DetectedLanguage:
        """Tell which language is spoken in `audio`."""
        ...


class ModelLibrary(Protocol):
    """The models on disk, as they come, change and go. Nothing here knows which of them are in memory.

    * Names are found as `ModelRepository.find` finds them, except that no catch-all alias counts for a change.
    * `pull` raises ModelNotFound and InvalidRequest before its first step, and ends with a step of the stage DONE:
      at once where the model is here and intact. `completed` never falls for a file. It raises DownloadFailed,
      InsufficientStorage.
    * All who pull one model share one download; closing the generator leaves it to the others, or, with the last of
      them, ends it; what was downloaded is kept for the next pull.
    * `copy` and `create` share the weights of the model that they start from and may replace a model that they made
      before; every other name that means something raises ModelExists.
    * `delete` takes the weights when no other name uses them. A model that a person placed in the models folder is
      refused by `delete` (InvalidRequest): its files are that person's. What is made from it has no files of its own.
    * Each change is whole or has not happened, whatever interrupts it. A full disk raises InsufficientStorage.
    """

    def pull(self, name: str) -> AsyncGenerator[PullProgress, None]:
        """Install `name`, or repair it, and tell how far that is."""
        ...

    async def delete(self, name: str) -> ModelSpec:
        """Remove a model; returns what it was."""
        ...

    async def copy(self, source: str, destination: str) -> ModelSpec:
        """Give `source` a second name."""
        ...

    async def create(self, wish: NewModel) -> ModelSpec:
        """Make a model from another."""
        ...

    async def details(self, name: str, *, vocabulary: bool = False) -> ModelDetails:
        """What the files of an installed model say. Cheap when it was asked before, except with `vocabulary`."""
        ...


class Tokenizer(Protocol):
    """Text to tokens and back as one model has it, without the model: no weights are loaded.

    * `encode` gives what the model reads for a prompt; without `add_special_tokens`, what is left of plain text alone.
      It raises InvalidRequest (token id outside the vocabulary, messages that the template refuses) and
      UnsupportedCapability (a kind of prompt that the model has not).
    * `decode` spells control tokens out; both it and `pieces` raise InvalidRequest, with the field `tokens`, for an
      id outside the vocabulary.
    * Large texts do not hold the event loop. Many calls may be open at once.
    """

    async def encode(self, prompt: Prompt, *, add_special_tokens: bool = True) -> tuple[int, ...]:
        """The tokens of `prompt`."""
        ...

    async def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids`."""
        ...

    async def pieces(self, token_ids: Sequence[int]) -> tuple[bytes, ...]:
        """What each token stands for, which need not be whole characters."""
        ...


class Tokenizers(Protocol):
    """The tokenizers of the models on disk. Those that were opened before come at once."""

    async def open(self, spec: ModelSpec) -> Tokenizer:
        """Raises ModelLoadFailed for damaged files, UnsupportedCapability for one that hears or is elsewhere."""
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


class Fetcher(Protocol):
    """Gets files from addresses that strangers named, without becoming their hand in this network.

    * Only http and https, on permitted ports, to public addresses and to what the operator opened; every redirect is
      judged anew. Nothing of this server goes along: no credentials, cookies, proxies.
    * Refused by rule, unresolvable, connection refused: one UrlNotAllowed that does not tell which.
    * A permitted address that answers raises DownloadFailed (with its status), DownloadTooLarge, DeadlineExceeded;
      too many fetches at once raise Overloaded, a full disk InsufficientStorage. `target` is gone after any of them.
    """

    async def fetch(self, url: str, target: Path, *, max_bytes: int) -> int:
        """Write what lies at `url` into the new file `target`; returns its size in bytes."""
        ...

    async def check(self, url: str) -> None:
        """Raise UrlNotAllowed if `fetch` would, as far as that can be known without connecting."""
        ...


@dataclass(frozen=True, slots=True)
class ProviderState:
    """How another server does. `host` is all of its address that may be shown; nothing here is secret.

    `status` is ok, degraded, down or not_configured; `circuit` closed, open or half_open; `checked_at` is in seconds
    since the epoch; `models` are the names under which its models are offered here.
    """

    name: str
    kind: str
    configured: bool
    host: str | None
    status: str
    latency_ms: int | None
    checked_at: float
    models: tuple[str, ...]
    circuit: str
    error_code: str | None


class ProviderWatch(Protocol):
    """Tells how the servers do that requests are passed on to. Answers within a few seconds, whatever they do."""

    async def states(self) -> Sequence[ProviderState]:
        """One for each provider; a state may be some seconds old."""
        ...


class Clock(Protocol):
    """Time. `monotonic` in seconds for durations; `now` in seconds since the epoch for people."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        ...

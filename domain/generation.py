"""A text request and what comes back: every dialect and every job speaks these."""

from dataclasses import dataclass, field
from enum import StrEnum

from domain.constraint import Constraint
from domain.errors import InvalidRequest
from domain.prompt import Prompt
from domain.tools import ToolCall

MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256
MAX_STOP_TOKENS = 64
MAX_BIASED_TOKENS = 300
MAX_BIAS = 100.0
MAX_TOP_LOGPROBS = 20
MAX_SEED = 2**63
MAX_SAMPLES = 8
MAX_PRIORITY = 10
WHOLE_PROMPT = -1


def _check(name: str, value: float, low: float, high: float, *, above: bool = False) -> None:
    # Written so that NaN, which compares as false with everything, is out of range.
    if not ((low < value if above else low <= value) and value <= high):
        bounds = f"above {low:g} and at most {high:g}" if above else f"between {low:g} and {high:g}"
        raise InvalidRequest(f"{name} must be {bounds}", field=name)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. Neutral by default; dialects bring their own defaults.

    `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off; `repeat_last_n` counts tokens (-1 the whole
    context, 0 off); `max_tokens` None means as many as the context holds; `seed` None means a random one.
    `typical_p` 1 is off. No end token and no stop string counts before `min_tokens` tokens are written.
    `stop_token_ids` end an answer as the model's own end tokens do, and also with `ignore_eos`. `logit_bias` are
    pairs of token id and what is added to its logit. `logprobs` None tells no probabilities; a number tells those of
    the tokens of the answer, and of so many alternatives to each.
    Raises InvalidRequest with the field's name for a value out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0.0, 2.0)
        _check("top_k", self.top_k, 0, 2**31)
        _check("top_p", self.top_p, 0.0, 1.0)
        _check("min_p", self.min_p, 0.0, 1.0)
        _check("typical_p", self.typical_p, 0.0, 1.0)
        _check("repetition_penalty", self.repetition_penalty, 0.0, 10.0, above=True)
        _check("repeat_last_n", self.repeat_last_n, -1, 2**31)
        _check("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        if self.seed is not None and not -MAX_SEED <= self.seed < MAX_SEED:
            raise InvalidRequest("seed must fit into 64 bits", field="seed")
        if self.max_tokens is not None and self.max_tokens < 0:
            raise InvalidRequest("max_tokens must not be negative", field="max_tokens")
        if len(self.stop) > MAX_STOP_STRINGS:
            raise InvalidRequest(f"stop may hold at most {MAX_STOP_STRINGS} strings", field="stop")
        if any(not text or len(text) > MAX_STOP_LENGTH for text in self.stop):
            raise InvalidRequest(f"each stop string must have 1 to {MAX_STOP_LENGTH} characters", field="stop")
        _check("min_tokens", self.min_tokens, 0, 2**31)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest("min_tokens must not be above max_tokens", field="min_tokens")
        if len(self.stop_token_ids) > MAX_STOP_TOKENS or any(token < 0 for token in self.stop_token_ids):
            raise InvalidRequest(
                f"stop_token_ids may hold at most {MAX_STOP_TOKENS} ids, none of them negative", field="stop_token_ids"
            )
        self._check_bias()
        if self.logprobs is not None:
            _check("logprobs", self.logprobs, 0, MAX_TOP_LOGPROBS)

    def _check_bias(self) -> None:
        tokens = {token for token, _ in self.logit_bias}
        if len(tokens) != len(self.logit_bias) or len(tokens) > MAX_BIASED_TOKENS or any(token < 0 for token in tokens):
            raise InvalidRequest(
                f"logit_bias may name at most {MAX_BIASED_TOKENS} token ids, each once, none of them negative",
                field="logit_bias",
            )
        for _, bias in self.logit_bias:
            _check("logit_bias", bias, -MAX_BIAS, MAX_BIAS)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What to write, how to choose the words, and until when.

    `timeout_seconds` counts from the call; when it passes, the answer ends with what there is and
    FinishReason.LENGTH. `request_id` is for logs only. `n` answers are written to one reading of the prompt; answer i
    of a seeded request has a seed of its own, made of the seed and i. `constraint` is the form that every answer has.
    Requests of a higher `priority` begin first; within a priority, clients take turns, and `client` says whose this is.
    `prompt_logprobs` None tells no probabilities of the prompt; a number tells those of its tokens, and of so many
    alternatives to each. `num_ctx` bounds prompt and answer together, 0 and anything above the loaded context mean
    that one. With `shift_keeping` None an answer ends with FinishReason.LENGTH where the context is full; with a
    number, the oldest half of the tokens after so many is dropped there, and the answer goes on; WHOLE_PROMPT
    stands for all tokens of the prompt.
    """

    prompt: Prompt
    sampling: SamplingParams = field(default_factory=SamplingParams)
    timeout_seconds: float | None = None
    request_id: str = ""
    n: int = 1
    constraint: Constraint | None = None
    client: str = ""
    priority: int = 0
    prompt_logprobs: int | None = None
    num_ctx: int = 0
    shift_keeping: int | None = None

    def __post_init__(self) -> None:
        if self.prompt_logprobs is not None:
            _check("prompt_logprobs", self.prompt_logprobs, 0, MAX_TOP_LOGPROBS)
        _check("num_ctx", self.num_ctx, 0, 2**31)
        if self.shift_keeping is not None:
            _check("num_keep", self.shift_keeping, -1, 2**31)
        _check("n", self.n, 1, MAX_SAMPLES)
        _check("priority", self.priority, -MAX_PRIORITY, MAX_PRIORITY)
        if self.timeout_seconds is not None:
            _check("timeout", self.timeout_seconds, 0.0, 86_400.0, above=True)


class FinishReason(StrEnum):
    """Why an answer ended: the model or a stop string ended it, or a limit of tokens or time did."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of tokens; `cached_tokens` of the prompt were not computed again.

    `reasoning_tokens` of the completion are thinking; `accepted_tokens` of it were guessed right and cost no step of
    their own, `rejected_tokens` were guessed wrong and are in no other count.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    accepted_tokens: int = 0
    rejected_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and answer together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of a request went, in seconds of a monotonic clock."""

    queue: float = 0.0
    load: float = 0.0
    prompt: float = 0.0
    decode: float = 0.0

    @property
    def total(self) -> float:
        """From the call to the last token."""
        return self.queue + self.load + self.prompt + self.decode


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of an answer. `context` is the prompt and the answer as token ids, ready for a Continuation."""

    reason: FinishReason
    usage: Usage
    timings: Timings
    context: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability.

    The distribution is the model's own, before temperature, penalties, bias and constraint. `raw` are the token's
    bytes, which need not be whole characters; `text` is what can be read of them. `top` are the most probable tokens
    at this place, the best first, the chosen one among them only if it is one.
    """

    token_id: int
    text: str
    raw: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True, slots=True)
class PromptToken:
    """A token of the prompt; `logprob` is None for the first, which follows on nothing."""

    token_id: int
    text: str
    raw: bytes
    logprob: float | None
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A piece of answer number `index`; the last one of each answer, and only it, carries `finish`.

    `text` and `thinking` never end inside a UTF-8 character; `text` never holds a part of a stop string, the marks
    around thinking, or a tool call. `tool_calls` are whole, each in one chunk only, in the order of the answer.
    `logprobs`, if they were asked for, are those of the tokens that became wholly visible with this piece. `prompt`,
    if it was asked for, comes with the first chunk of each answer.
    """

    text: str
    finish: Finish | None = None
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    prompt: tuple[PromptToken, ...] = ()

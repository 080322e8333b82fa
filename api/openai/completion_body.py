"""The body of POST /v1/completions, and how it becomes a GenerationRequest for each of its prompts."""

from dataclasses import dataclass
from typing import Any

from pydantic import Field
from starlette.requests import Request

from api.openai.constraints import constraint_of
from api.openai.reading import wrong
from api.openai.sampling_body import DEFAULT_SECONDS, SamplingBody, in_this_dialect, num_ctx_of, sampling_of
from api.request_ids import request_id_of
from api.sampling import client_of, deadline_of
from api.services import Limits
from domain.errors import InvalidRequest
from domain.generation import MAX_SAMPLES, GenerationRequest
from domain.model import ModelSpec
from domain.preset import Preset
from domain.prompt import FillInMiddle, Prompt, RawText, TokenIds

MAX_PROMPTS = 64
MAX_LOGPROBS = 5
DEFAULT_NEW_TOKENS = 16


class CompletionBody(SamplingBody):
    """Text or tokens, and how to go on from them."""

    prompt: Any
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    best_of: int | None = Field(None, ge=1, le=MAX_SAMPLES)

    @property
    def choices(self) -> int:
        """How many answers to each prompt are shown."""
        return 1 if self.n is None else self.n


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt of a body: what the model is asked, and as what the prompt was written."""

    prompt: str | tuple[int, ...]
    request: GenerationRequest


def requests_of(request: Request, body: CompletionBody, spec: ModelSpec, limits: Limits) -> list[Asked]:
    """One for each prompt. Raises InvalidRequest (and its kinds) naming the body's field."""
    _check_wishes(body)
    try:
        return [
            Asked(prompt, _request(request, body, spec.preset, limits, _prompt(prompt, body.suffix)))
            for prompt in prompts_of(body.prompt)
        ]
    except InvalidRequest as error:
        raise in_completion(error, body) from None


def prompts_of(prompt: Any) -> list[str | tuple[int, ...]]:
    """The prompts that a field with one of four types holds."""
    match prompt:
        case str():
            return [prompt]
        case [_, *_] if all(isinstance(item, str) for item in prompt):
            prompts = list(prompt)
        case [_, *_] if is_token_ids(prompt):
            return [tuple(prompt)]
        case [_, *_] if all(is_token_ids(item) for item in prompt):
            prompts = [tuple(item) for item in prompt]
        case _:
            raise wrong("prompt", "must be a string, a list of strings, a list of token ids, or a list of such lists")
    if len(prompts) > MAX_PROMPTS:
        raise wrong("prompt", f"must hold at most {MAX_PROMPTS} prompts")
    return prompts


def is_token_ids(value: Any) -> bool:
    """Whether it is a list of integers."""
    return isinstance(value, list) and all(type(item) is int for item in value)


def in_completion(error: InvalidRequest, body: CompletionBody) -> InvalidRequest:
    """`error` under the name that the body has for the field."""
    names = {
        "prompt": "prompt",
        "tokens": "prompt",
        "logprobs": "logprobs",
        "prompt_logprobs": "logprobs",
        "suffix": "suffix",
    }
    return in_this_dialect(error, body, names)


def _check_wishes(body: CompletionBody) -> None:
    if body.suffix is not None and body.echo:
        raise wrong("echo", "does not go with suffix")
    if body.truncate and body.echo:
        raise wrong("truncate", "does not go with echo: what is cut cannot be repeated")
    if body.best_of is not None and body.best_of < body.choices:
        raise wrong("best_of", "must not be below n")
    if body.best_of is not None and body.best_of > body.choices and body.stream:
        raise wrong("best_of", "does not go with stream: the best is known at the end")


def _prompt(prompt: str | tuple[int, ...], suffix: str | None) -> Prompt:
    if isinstance(prompt, tuple):
        if suffix is not None:
            raise wrong("suffix", "goes with a prompt that is text")
        return TokenIds(prompt)
    return RawText(prompt) if suffix is None else FillInMiddle(prompt, suffix)


def _request(
    request: Request, body: CompletionBody, preset: Preset, limits: Limits, prompt: Prompt
) -> GenerationRequest:
    samples = body.best_of or body.choices
    # The best are chosen by their probabilities, whether those are told or not.
    logprobs = 0 if body.logprobs is None and samples > body.choices else body.logprobs
    return GenerationRequest(
        prompt,
        sampling_of(body, preset, max_tokens=_new_tokens(body, preset), ceiling=limits.new_tokens, logprobs=logprobs),
        deadline_of(request, None, limits.generation_seconds or DEFAULT_SECONDS),
        request_id_of(request.scope),
        client=client_of(request),
        n=samples,
        constraint=constraint_of(body.response_format, body.structured_outputs, body.guided),
        prompt_logprobs=body.logprobs if body.echo else None,
        num_ctx=num_ctx_of(body, preset),
    )


def _new_tokens(body: CompletionBody, preset: Preset) -> int | None:
    if body.max_tokens is None and "num_predict" not in dict(preset.parameters):
        return DEFAULT_NEW_TOKENS
    return body.max_tokens

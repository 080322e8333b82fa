import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import InvalidRequest
from domain.generation import (
    MAX_BIASED_TOKENS,
    MAX_PRIORITY,
    MAX_SAMPLES,
    MAX_SEED,
    MAX_STOP_LENGTH,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKENS,
    MAX_TOP_LOGPROBS,
    GenerationRequest,
    SamplingParams,
    Timings,
    Usage,
)
from domain.prompt import Chat, Message, RawText, Role

ABOVE_ZERO = math.nextafter(0.0, 1.0)

# field → (lowest, highest) value that is allowed; each bound itself is allowed.
RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "repetition_penalty": (ABOVE_ZERO, 10.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}
INTEGER_RANGES: dict[str, tuple[int, int]] = {
    "top_k": (0, 2**31),
    "repeat_last_n": (-1, 2**31),
    "seed": (-MAX_SEED, MAX_SEED - 1),
    "min_tokens": (0, 2**31),
    "logprobs": (0, MAX_TOP_LOGPROBS),
}


def params(**values: object) -> SamplingParams:
    return SamplingParams(**values)  # type: ignore[arg-type]


def refused(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=name) as caught:
        params(**{name: value})
    assert caught.value.field == name


def test_every_figure_has_a_range_that_is_tested_here() -> None:
    figures = {field.name for field in fields(SamplingParams)} - {
        "stop",
        "ignore_eos",
        "max_tokens",
        "stop_token_ids",
        "logit_bias",
    }
    assert figures == {*RANGES, *INTEGER_RANGES}


@pytest.mark.parametrize("name", [*RANGES, *INTEGER_RANGES])
def test_the_bounds_themselves_are_allowed(name: str) -> None:
    for value in {**RANGES, **INTEGER_RANGES}[name]:
        assert getattr(params(**{name: value}), name) == value


@pytest.mark.parametrize("name", RANGES)
def test_a_figure_just_outside_its_range_is_refused_by_name(name: str) -> None:
    low, high = RANGES[name]
    refused(name, math.nextafter(low, -math.inf))
    refused(name, math.nextafter(high, math.inf))


@pytest.mark.parametrize("name", INTEGER_RANGES)
def test_an_integer_just_outside_its_range_is_refused_by_name(name: str) -> None:
    low, high = INTEGER_RANGES[name]
    refused(name, low - 1)
    refused(name, high + 1)
    refused(name, 10**400)


@pytest.mark.parametrize("name", [*RANGES, "top_k", "repeat_last_n", "min_tokens", "logprobs"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_finite_number_is_refused(name: str, value: float) -> None:
    refused(name, value)


@given(st.sampled_from(sorted(RANGES)), st.floats())
def test_a_figure_is_kept_exactly_or_refused(name: str, value: float) -> None:
    low, high = RANGES[name]
    if low <= value <= high:
        assert getattr(params(**{name: value}), name) == value
    else:
        refused(name, value)


def test_the_defaults_change_nothing_about_the_model() -> None:
    neutral = SamplingParams()
    assert (neutral.temperature, neutral.top_k, neutral.top_p, neutral.min_p) == (1.0, 0, 1.0, 0.0)
    assert (neutral.repetition_penalty, neutral.presence_penalty, neutral.frequency_penalty) == (1.0, 0.0, 0.0)
    assert (neutral.seed, neutral.max_tokens, neutral.stop) == (None, None, ())


def test_max_tokens_may_be_none_or_zero_but_not_negative() -> None:
    assert params(max_tokens=None).max_tokens is None
    assert params(max_tokens=0).max_tokens == 0
    refused("max_tokens", -1)


def test_stop_strings_are_limited_in_number_and_length() -> None:
    longest = ("x" * MAX_STOP_LENGTH,) * MAX_STOP_STRINGS
    assert params(stop=longest).stop == longest
    refused("stop", ("x",) * (MAX_STOP_STRINGS + 1))
    refused("stop", ("x" * (MAX_STOP_LENGTH + 1),))
    refused("stop", ("fine", ""))


def test_stop_tokens_are_limited_in_number_and_never_negative() -> None:
    most = tuple(range(MAX_STOP_TOKENS))
    assert params(stop_token_ids=most).stop_token_ids == most
    refused("stop_token_ids", (*most, 9))
    refused("stop_token_ids", (-1,))


def test_a_bias_names_each_token_once_and_stays_in_its_range() -> None:
    most = tuple((token, 100.0 - token) for token in range(200))
    assert params(logit_bias=most).logit_bias == most
    refused("logit_bias", tuple((token, 1.0) for token in range(MAX_BIASED_TOKENS + 1)))
    refused("logit_bias", ((3, 1.0), (3, 2.0)))
    refused("logit_bias", ((-1, 1.0),))
    for bias in (math.nan, -100.001, 100.001):
        refused("logit_bias", ((3, bias),))


def test_min_tokens_is_at_most_max_tokens() -> None:
    assert params(min_tokens=5, max_tokens=5).min_tokens == 5
    with pytest.raises(InvalidRequest, match="max_tokens") as caught:
        params(min_tokens=6, max_tokens=5)
    assert caught.value.field == "min_tokens"


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("n", (1, MAX_SAMPLES), (0, MAX_SAMPLES + 1)),
        ("priority", (-MAX_PRIORITY, MAX_PRIORITY), (-MAX_PRIORITY - 1, MAX_PRIORITY + 1)),
    ],
)
def test_samples_and_priority_have_ranges(field: str, good: tuple[int, ...], bad: tuple[int, ...]) -> None:
    for value in good:
        assert getattr(GenerationRequest(RawText("x"), **{field: value}), field) == value  # type: ignore[arg-type]
    for value in bad:
        with pytest.raises(InvalidRequest) as caught:
            GenerationRequest(RawText("x"), **{field: value})  # type: ignore[arg-type]
        assert caught.value.field == field


def test_a_chat_needs_a_message_and_a_raw_prompt_a_character() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Chat(())
    assert caught.value.field == "messages"
    with pytest.raises(InvalidRequest) as caught:
        RawText("")
    assert caught.value.field == "prompt"
    assert Chat((Message(Role.USER, ""),)).messages[0].content == ""


@pytest.mark.parametrize("timeout", [0.0, -1.0, 86_400.1, math.nan, math.inf, -math.inf])
def test_a_timeout_is_above_zero_and_at_most_a_day(timeout: float) -> None:
    with pytest.raises(InvalidRequest) as caught:
        GenerationRequest(RawText("x"), timeout_seconds=timeout)
    assert caught.value.field == "timeout"


@pytest.mark.parametrize("timeout", [None, 0.001, 86_400.0])
def test_a_timeout_in_its_range_is_kept(timeout: float | None) -> None:
    assert GenerationRequest(RawText("x"), timeout_seconds=timeout).timeout_seconds == timeout


def test_totals_are_sums() -> None:
    assert Usage(prompt_tokens=31, completion_tokens=8, cached_tokens=16).total_tokens == 39
    assert Timings(queue=1.0, load=2.0, prompt=3.0, decode=4.0).total == 10.0

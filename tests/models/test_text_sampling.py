"""How a row becomes a token: filters, bias, early ends, probabilities; each row for itself."""

import math
from typing import Any

import pytest
import torch

from domain.errors import GenerationFailed
from domain.generation import SamplingParams
from models.text.sampler import Sampler, Samples, _penalized
from models.text.sequence import Sequence

# Probabilities of ten tokens; the logits are their logarithms.
PROBABILITIES = torch.tensor([0.3, 0.2, 0.15, 0.1, 0.08, 0.07, 0.05, 0.03, 0.015, 0.005])
LOGITS = PROBABILITIES.log()


def one(number: int = 0, *, stop_ids: tuple[int, ...] = (), early: int = 0, **options: Any) -> Sequence:
    params = SamplingParams(**{"temperature": 1.0, **options})
    return Sequence(number, [1], params, 500, frozenset(stop_ids), 0.0, min_new_tokens=early)


def sample(logits: torch.Tensor, *sequences: Sequence) -> Samples:
    sampler = Sampler()
    for sequence in sequences:
        sampler.begin(sequence)
    return sampler.sample(logits, sequences)


def drawn(count: int = 4000, *, stop_ids: tuple[int, ...] = (), early: int = 0, **options: Any) -> torch.Tensor:
    """How often each token comes, as a share."""
    sampler, sequence = Sampler(), one(seed=1, stop_ids=stop_ids, early=early, **options)
    sampler.begin(sequence)
    tokens = [sampler.sample(LOGITS[None], [sequence]).tokens[0] for _ in range(count)]
    return torch.bincount(torch.tensor(tokens), minlength=10) / count


def assert_share(options: dict[str, Any], kept: list[int]) -> None:
    expected = torch.zeros(10)
    expected[kept] = PROBABILITIES[kept] / PROBABILITIES[kept].sum()
    shares = drawn(**options)
    assert [token for token in range(10) if shares[token] > 0] == sorted(kept)
    assert torch.allclose(shares, expected, atol=0.03)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"top_k": 3}, [0, 1, 2]),
        ({"top_p": 0.6}, [0, 1, 2]),
        ({"min_p": 0.3}, [0, 1, 2, 3]),
        ({"top_k": 5, "top_p": 0.55}, [0, 1]),
        ({"top_p": 0.0}, [0]),
    ],
)
def test_a_filter_keeps_the_likely_tokens_in_their_proportions(options: dict[str, Any], kept: list[int]) -> None:
    assert_share(options, kept)


def test_typical_sampling_keeps_the_tokens_of_expected_surprise() -> None:
    entropy = -(PROBABILITIES * LOGITS).sum()
    nearest = sorted(range(10), key=lambda token: abs(-LOGITS[token] - entropy))
    kept: list[int] = []
    while sum(PROBABILITIES[token] for token in kept) < 0.4:
        kept.append(nearest[len(kept)])
    assert 0 not in kept
    assert_share({"typical_p": 0.4}, kept)
    assert drawn(20, typical_p=0.0)[nearest[0]] == 1.0


def test_a_bias_moves_the_logit_by_what_it_says() -> None:
    greedy: dict[str, Any] = {"temperature": 0.0}
    assert sample(LOGITS[None], one(logit_bias=((9, 4.0),), **greedy)).tokens == [0]
    assert sample(LOGITS[None], one(logit_bias=((9, 4.2),), **greedy)).tokens == [9]
    assert sample(LOGITS[None], one(logit_bias=((0, -100.0), (1, -100.0)), **greedy)).tokens == [2]
    assert sample(LOGITS[None], one(logit_bias=((9, 4.2), (10, 100.0)), **greedy)).tokens == [9]


def penalized(ids: list[int], written: list[int], **options: Any) -> list[float]:
    """The differences that penalties make to the logits after a prompt of `ids` and an answer of `written`."""
    sequence = Sequence(0, ids, SamplingParams(temperature=0.0, **options), 99, frozenset(), 0.0)
    for token in written:
        sequence.append(token)
    logits = torch.tensor([4.0, 3.0, 2.0, -1.0, -2.0])
    found: list[float] = (_penalized(logits, sequence) - logits).tolist()
    return found


def test_repetition_is_penalized_once_a_token_within_its_window_prompt_included() -> None:
    assert penalized([0, 3, 3], [1, 1], repetition_penalty=2.0) == [-2.0, -1.5, 0.0, -1.0, 0.0]
    assert penalized([0, 3, 3], [1, 1], repetition_penalty=2.0, repeat_last_n=3) == [0.0, -1.5, 0.0, -1.0, 0.0]
    assert penalized([0, 3, 3], [1, 1], repetition_penalty=2.0, repeat_last_n=0) == [0.0] * 5
    assert penalized([0, 3], [4] * 100, repetition_penalty=2.0, repeat_last_n=-1) == [-2.0, 0.0, 0.0, -1.0, -2.0]
    assert penalized([0, 3], [4] * 100, repetition_penalty=2.0) == [0.0, 0.0, 0.0, 0.0, -2.0]


def test_presence_counts_once_and_frequency_each_time_of_what_was_written_alone() -> None:
    assert penalized([0, 3], [1, 1, 4], presence_penalty=0.5) == [0.0, -0.5, 0.0, 0.0, -0.5]
    assert penalized([0, 3], [1, 1, 4], frequency_penalty=0.5) == [0.0, -1.0, 0.0, 0.0, -0.5]
    assert penalized([0, 3], [1, 1, 4], frequency_penalty=-0.5, presence_penalty=0.5) == [0.0, 0.5, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_end_comes_before_min_tokens(temperature: float) -> None:
    sampler, sequence = Sampler(), one(temperature=temperature, stop_ids=(0, 1), early=2, top_k=1)
    sampler.begin(sequence)
    for expected in (2, 2, 0):
        (token,) = sampler.sample(LOGITS[None], [sequence]).tokens
        assert token == expected
        sequence.append(int(expected), may_end=False)


def test_a_forbidden_token_is_never_drawn_even_by_the_lowest_number() -> None:
    shares = drawn(stop_ids=(0,), early=9999)
    assert shares[0] == 0.0
    assert torch.allclose(shares[1:], PROBABILITIES[1:] / 0.7, atol=0.03)


def test_probabilities_are_the_models_own_whatever_the_request_wishes() -> None:
    wishes: dict[str, Any] = {"temperature": 0.0, "logit_bias": ((9, 50.0),), "repetition_penalty": 2.0}
    samples = sample(LOGITS[None] * 1.0 + 7.0, one(logprobs=3, **wishes))
    assert samples.tokens == [9]
    ranked = samples.ranked[0]
    assert ranked.token == 9
    assert math.isclose(ranked.logprob, math.log(0.005), abs_tol=1e-4)
    assert [token for token, _ in ranked.top] == [0, 1, 2]
    assert torch.allclose(torch.tensor([value for _, value in ranked.top]), LOGITS[:3], atol=1e-4)
    assert sample(LOGITS[None], one(logprobs=0)).ranked[0].top == ()


def test_every_row_gets_what_it_would_get_alone() -> None:
    torch.manual_seed(3)
    logits = torch.randn(6, 1000) * 3
    wishes: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"seed": 1, "typical_p": 0.7},
        {"seed": 2, "logit_bias": ((5, 9.0),), "logprobs": 4},
        {"seed": 3, "top_p": 0.9, "min_p": 0.01},
        {"temperature": 0.0, "logprobs": 2, "presence_penalty": 1.0},
        {"seed": 4, "top_k": 7},
    ]
    together = sample(logits, *(one(number, **wish) for number, wish in enumerate(wishes)))
    alone = [sample(logits[row : row + 1], one(row, **wish)) for row, wish in enumerate(wishes)]
    assert together.tokens == [samples.tokens[0] for samples in alone]
    assert together.ranked == {row: alone[row].ranked[0] for row in (2, 4)}


def test_a_row_without_numbers_has_no_token_and_the_others_do() -> None:
    logits = torch.stack([LOGITS, torch.full((10,), float("nan")), LOGITS])
    tokens = sample(logits, one(0, temperature=0.0), one(1, temperature=0.0), one(2, temperature=0.0)).tokens
    assert (tokens[0], tokens[2]) == (0, 0)
    assert isinstance(tokens[1], GenerationFailed)


def test_a_plain_greedy_row_leaves_nothing_to_remember() -> None:
    sampler = Sampler()
    sampler.begin(one(0, temperature=0.0))
    assert not sampler._rules
    sampler.begin(one(1, temperature=0.5))
    sampler.forget(one(1))
    assert not sampler._rules

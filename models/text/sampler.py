"""Logits to tokens, row by row: each request has its own parameters and its own generator."""

import math
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import torch

from domain.errors import GenerationFailed
from domain.generation import SamplingParams
from models.text.guidance import Form
from models.text.native.choice import greatest
from models.text.sequence import Sequence

# Sorting a whole vocabulary to find a nucleus costs more than the step; the most likely few nearly always do.
_FIRST_LOOK = 256


@dataclass(frozen=True, slots=True)
class Ranked:
    """A chosen token in the model's own distribution: natural logarithms, `top` the most probable ones in order."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Samples:
    """What a step chose: a token for each row, or why there is none; `ranked` by row, where it was asked for."""

    tokens: list[int | GenerationFailed]
    ranked: dict[int, Ranked]


@dataclass(slots=True)
class Sampler:
    """Chooses tokens. Only rows that want more than the largest logit cost anything beyond one maximum for all."""

    _rules: dict[int, "_Rule"] = field(default_factory=dict)

    def begin(self, sequence: Sequence, grammar: Form | None = None) -> None:
        """A sequence will be in some of the next steps; until `forget` its generator lives on."""
        if grammar is not None or not is_plain_greedy(sequence):
            self._rules[sequence.id] = _Rule(sequence, grammar)

    def forget(self, sequence: Sequence) -> None:
        """The sequence is over."""
        self._rules.pop(sequence.id, None)

    def sample(self, logits: torch.Tensor, sequences: Rows[Sequence]) -> Samples:
        """One token for each row of `[rows, vocabulary]`."""
        best, greedy = greatest(logits)
        tokens: list[int | GenerationFailed] = list(greedy.tolist())
        ranked: dict[int, Ranked] = {}
        for row, (sequence, number) in enumerate(zip(sequences, best.tolist(), strict=True)):
            if not math.isfinite(number):
                tokens[row] = GenerationFailed("the model produced no valid number for the next token")
            elif self._rules and (rule := self._rules.get(sequence.id)) is not None:
                try:
                    token = rule.choose(logits[row])
                except GenerationFailed as error:
                    tokens[row] = error
                    continue
                tokens[row] = token
                if sequence.params.logprobs is not None:
                    ranked[row] = _rank(logits[row], token, sequence.params.logprobs)
        return Samples(tokens, ranked)


class _Rule:
    """How one sequence chooses; what does not change from token to token is made once."""

    def __init__(self, sequence: Sequence, grammar: Form | None) -> None:
        self._sequence = sequence
        self._grammar = grammar
        self._size: int | None = None
        self._ends = torch.tensor(sorted(sequence.stop_ids), dtype=torch.int64)
        self._bias: tuple[torch.Tensor, torch.Tensor] | None = None
        if sequence.params.logit_bias:
            ids, values = zip(*sequence.params.logit_bias, strict=True)
            self._bias = torch.tensor(ids), torch.tensor(values, dtype=torch.float32)
        self._generator = torch.Generator()
        if sequence.params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sequence.params.seed)

    def choose(self, logits: torch.Tensor) -> int:
        """The next token by `[vocabulary]` logits. Raises GenerationFailed if the grammar leaves none."""
        params = self._sequence.params
        self._fit(len(logits))
        logits = self._permitted(_penalized(self._biased(logits), self._sequence))
        if params.temperature == 0.0:
            return int(logits.argmax())
        probabilities, ids = _candidates(logits / params.temperature, params)
        # One number a token: the answer to a seed does not depend on how the candidates were found.
        drawn = torch.rand((), generator=self._generator, dtype=torch.float64).item()
        cumulated = probabilities.double().cumsum(0)
        chosen = int(torch.searchsorted(cumulated, drawn * cumulated[-1]).clamp_max(len(ids) - 1))
        return int(ids[chosen])

    def _fit(self, size: int) -> None:
        """Leave out the ids that the tokenizer knows and the model cannot say: nothing about them can change."""
        if self._size != size:
            self._size = size
            self._ends = self._ends[self._ends < size]
            if self._bias is not None:
                ids, values = self._bias
                self._bias = ids[ids < size], values[ids < size]

    def _biased(self, logits: torch.Tensor) -> torch.Tensor:
        if self._bias is None:
            return logits
        ids, values = (tensor.to(logits.device) for tensor in self._bias)
        return logits.index_add(0, ids, values)

    def _permitted(self, logits: torch.Tensor) -> torch.Tensor:
        """Without the tokens that the grammar forbids, and without an end where it is too early for one."""
        early = self._sequence.new_tokens < self._sequence.min_new_tokens
        allowed = None if self._grammar is None else self._grammar.mask(len(logits))
        if self._grammar is None or allowed is None:
            return logits.index_fill(0, self._ends.to(logits.device), float("-inf")) if early else logits
        if self._grammar.accepting:
            allowed[self._ends] = True
            if early:
                # Where the grammar leaves nothing but an end, the answer is over all the same.
                going_on = allowed.index_fill(0, self._ends, value=False)
                allowed = going_on if bool(going_on.any()) else allowed
        if not bool(allowed.any()):
            raise GenerationFailed("the constraint leaves no token for the model to go on with")
        return logits.masked_fill(~allowed.to(logits.device), float("-inf"))


def is_plain_greedy(sequence: Sequence) -> bool:
    """Whether every token of `sequence` is the one with the largest logit and nothing else is asked about it.

    A grammar, which the sequence does not know of, may say otherwise.
    """
    params = sequence.params
    penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
    return (
        params.temperature == 0.0
        and penalties == (1.0, 0.0, 0.0)
        and not params.logit_bias
        and params.logprobs is None
        and not sequence.min_new_tokens
    )


def _rank(logits: torch.Tensor, token: int, count: int) -> Ranked:
    total = logits.logsumexp(dim=0)
    values, ids = logits.topk(min(count, len(logits)))
    top = tuple(zip(ids.tolist(), (values - total).tolist(), strict=True))
    return Ranked(token, float(logits[token] - total), top)


def _penalized(logits: torch.Tensor, sequence: Sequence) -> torch.Tensor:
    """Repetition over the last tokens, prompt included; presence and frequency over what was generated."""
    params = sequence.params
    window = len(sequence.ids) if params.repeat_last_n < 0 else params.repeat_last_n
    if params.repetition_penalty != 1.0 and window:
        seen = torch.tensor(sorted(set(sequence.ids[-window:])), device=logits.device)
        before = logits[seen]
        penalty = params.repetition_penalty
        logits = logits.index_put((seen,), torch.where(before > 0, before / penalty, before * penalty))
    if (params.presence_penalty or params.frequency_penalty) and sequence.new_tokens:
        written = torch.tensor(list(sequence.output_ids), device=logits.device)
        ids, counts = written.unique(return_counts=True)
        minus = params.presence_penalty + params.frequency_penalty * counts
        logits = logits.index_put((ids,), logits[ids] - minus)
    return logits


def _candidates(logits: torch.Tensor, params: SamplingParams) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens that the filters leave, none of them impossible, and their probabilities, not renormalised."""
    limit = min(params.top_k or len(logits), len(logits))
    if limit == len(logits) and params.top_p >= 1.0:
        probabilities = logits.softmax(dim=0)
        possible = (probabilities >= params.min_p * probabilities.max()) & (probabilities > 0.0)
        ids = torch.nonzero(possible).squeeze(1)
        return _typical(probabilities[ids], ids, params.typical_p)
    total = torch.logsumexp(logits if limit == len(logits) else logits.topk(limit).values, dim=0)
    count = min(_FIRST_LOOK, limit)
    while True:
        top, ids = logits.topk(count)
        probabilities = (top - total).exp()
        cumulated = probabilities.cumsum(0)
        if count == limit or (params.top_p < 1.0 and float(cumulated[-1]) >= params.top_p):
            break
        count = min(count * 16, limit)
    keep = (cumulated - probabilities < params.top_p) & (probabilities > 0.0)
    if params.min_p > 0.0:
        keep &= probabilities >= params.min_p * probabilities[0]
    keep[0] = True
    return _typical(probabilities[keep], ids[keep], params.typical_p)


def _typical(probabilities: torch.Tensor, ids: torch.Tensor, mass: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens whose surprise is nearest to the expected one, until they hold `mass` (arXiv 2202.00666)."""
    if mass >= 1.0:
        return probabilities, ids
    normal = probabilities / probabilities.sum()
    surprise = -normal.log()
    order = (surprise - (normal * surprise).sum()).abs().argsort(stable=True)
    sorted_mass = normal[order].cumsum(0)
    kept = order[sorted_mass - normal[order] < mass] if mass > 0.0 else order[:1]
    kept = kept.sort().values
    return probabilities[kept], ids[kept]

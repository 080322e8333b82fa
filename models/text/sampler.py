"""Logits to tokens, row by row: each request has its own parameters and its own generator."""

from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import torch

from domain.generation import SamplingParams
from models.text.sequence import Sequence

# Sorting a whole vocabulary to find a nucleus costs more than the step; the most likely few nearly always do.
_FIRST_LOOK = 256


@dataclass(slots=True)
class Sampler:
    """Chooses tokens; a generator lives as long as its sequence does."""

    _generators: dict[int, torch.Generator] = field(default_factory=dict)

    def sample(self, logits: torch.Tensor, sequences: Rows[Sequence]) -> list[int | None]:
        """One token for each row of `[rows, vocabulary]`; None where the logits hold no number."""
        best, greedy = logits.max(dim=1)
        valid = torch.isfinite(best).tolist()
        tokens: list[int | None] = list(greedy.tolist())
        for row, sequence in enumerate(sequences):
            if not valid[row]:
                tokens[row] = None
            elif not _is_plain_greedy(sequence.params):
                tokens[row] = self._sample_row(logits[row], sequence)
        return tokens

    def forget(self, sequence: Sequence) -> None:
        """The sequence is over."""
        self._generators.pop(sequence.id, None)

    def _sample_row(self, logits: torch.Tensor, sequence: Sequence) -> int:
        params = sequence.params
        logits = _penalized(logits, sequence)
        if params.temperature == 0.0:
            return int(logits.argmax())
        probabilities, ids = _candidates(logits / params.temperature, params)
        # One number a token: the answer to a seed does not depend on how the candidates were found.
        drawn = torch.rand((), generator=self._generator(sequence), dtype=torch.float64).item()
        cumulated = probabilities.double().cumsum(0)
        chosen = int(torch.searchsorted(cumulated, drawn * cumulated[-1]).clamp_max(len(ids) - 1))
        return int(ids[chosen])

    def _generator(self, sequence: Sequence) -> torch.Generator:
        generator = self._generators.get(sequence.id)
        if generator is None:
            generator = torch.Generator()
            if sequence.params.seed is None:
                generator.seed()
            else:
                generator.manual_seed(sequence.params.seed)
            self._generators[sequence.id] = generator
        return generator


def _is_plain_greedy(params: SamplingParams) -> bool:
    penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
    return params.temperature == 0.0 and penalties == (1.0, 0.0, 0.0)


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
    """The tokens that top-k, top-p and min-p leave and their probabilities, not renormalised."""
    limit = min(params.top_k or len(logits), len(logits))
    if limit == len(logits) and params.top_p >= 1.0:
        probabilities = logits.softmax(dim=0)
        ids = torch.nonzero(probabilities >= params.min_p * probabilities.max()).squeeze(1)
        return probabilities[ids], ids
    total = torch.logsumexp(logits if limit == len(logits) else logits.topk(limit).values, dim=0)
    count = min(_FIRST_LOOK, limit)
    while True:
        top, ids = logits.topk(count)
        probabilities = (top - total).exp()
        cumulated = probabilities.cumsum(0)
        if count == limit or (params.top_p < 1.0 and float(cumulated[-1]) >= params.top_p):
            break
        count = min(count * 16, limit)
    keep = cumulated - probabilities < params.top_p
    if params.min_p > 0.0:
        keep &= probabilities >= params.min_p * probabilities[0]
    keep[0] = True
    return probabilities[keep], ids[keep]

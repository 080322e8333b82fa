"""Which rows of a step give logits, and what becomes of those that score a prompt or stand for it."""

from array import array
from dataclasses import dataclass

import torch

from models.text.prompt_scores import PromptScores
from models.text.scheduler import Step

# A row of a large vocabulary has half a megabyte, and what is reckoned of it as much again.
_ROWS = 32


@dataclass(frozen=True, slots=True)
class KeptRows:
    """The rows of a packed step that give logits, ascending; `sampling` are those places among them that sample.

    `pools` says whether somebody wants the hidden state of such a row.
    """

    rows: list[int]
    sampling: list[int]
    pools: bool = False

    def pool(self, step: Step, states: torch.Tensor) -> None:
        """Give those sequences that want it their row of the kept rows' `[kept, width]` hidden states."""
        rows = (work.sequence for work in step.work for _ in range(work.sampled))
        for sequence, place in zip(rows, self.sampling, strict=True):
            if sequence.pooled is not None and not sequence.new_tokens:
                sequence.pooled[:] = array("f", states[place].float().cpu().numpy().tobytes())

    def sampled(self, step: Step, logits: torch.Tensor) -> torch.Tensor:
        """Of the kept rows' `[kept, vocabulary]` logits those that sample; the others score their prompts here."""
        if len(self.sampling) == len(self.rows):
            return logits
        first = 0
        for work in step.work:
            if work.scored and work.sequence.scores is not None:
                following = [work.sequence.ids[position + 1] for position in work.scored]
                _score(work.sequence.scores, following, logits[first : first + len(following)])
                first += len(following)
            first += work.sampled
        return logits[self.sampling]


def kept_rows(step: Step) -> KeptRows:
    """The rows that score prompts, and the last ones of every work that samples."""
    kept = KeptRows([], [], any(work.samples and work.sequence.pooled is not None for work in step.work))
    start = 0
    for work in step.work:
        kept.rows.extend(start + position - work.start for position in work.scored)
        start += work.count
        for row in range(start - work.sampled, start):
            kept.sampling.append(len(kept.rows))
            kept.rows.append(row)
    return kept


def _score(scores: PromptScores, following: list[int], logits: torch.Tensor) -> None:
    """Add what `[rows, vocabulary]` logits say of the tokens that follow, a few rows at a time."""
    for start in range(0, len(following), _ROWS):
        ids, rows = following[start : start + _ROWS], logits[start : start + _ROWS]
        total = rows.logsumexp(dim=1)
        values, best = rows.topk(min(scores.top, rows.shape[1]), dim=1)
        own = rows.gather(1, torch.tensor(ids, device=rows.device)[:, None])[:, 0] - total
        tops = (values - total[:, None]).tolist()
        for token, logprob, names, top in zip(ids, own.tolist(), best.tolist(), tops, strict=True):
            scores.known.append((token, logprob, tuple(zip(names, top, strict=True))))

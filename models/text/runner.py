"""Runs one step: packed ids and positions in, the logits of the rows that choose a token out."""

import torch
from transformers import PreTrainedModel

from models.text.attention import PagedStep
from models.text.kv_cache import KVCache
from models.text.scheduler import Step

# A row of a large vocabulary has half a megabyte, and what is reckoned of it as much again.
_ROWS = 32


class Runner:
    """A model and its cache on one device; only the device's owner thread may call it."""

    def __init__(self, model: PreTrainedModel, cache: KVCache, device: torch.device) -> None:
        self._model = model
        self._cache = cache
        self._device = device

    @torch.inference_mode()
    def run(self, step: Step) -> torch.Tensor:
        """`[rows, vocabulary]` float32 logits, one row for each work of `step` that samples, in order.

        Sequences that want their prompts scored get the scores of what this step reads.
        """
        ids: list[int] = []
        positions: list[int] = []
        last: list[int] = []
        scored: list[int] = []
        for work in step.work:
            end = work.start + work.count
            scored.extend(len(ids) + position - work.start for position in work.scored)
            ids.extend(work.sequence.ids[work.start : end])
            positions.extend(range(work.start, end))
            if work.samples:
                last.append(len(ids) - 1)
        # With nothing to sample the cheapest question is one row, thrown away.
        keep = torch.tensor([*last, *scored] or [len(ids) - 1], device=self._device)
        output = self._model(
            input_ids=torch.tensor([ids], device=self._device),
            position_ids=torch.tensor([positions], device=self._device),
            use_cache=False,
            logits_to_keep=keep,
            step=PagedStep(step, self._cache, self._device),
        )
        logits: torch.Tensor = output.logits[0].float()
        if scored:
            _score(step, logits[len(last) :])
        return logits[: len(last)]


def _score(step: Step, logits: torch.Tensor) -> None:
    """Hand `[rows, vocabulary]` logits to the sequences whose prompts they are about, a few rows at a time."""
    first = 0
    for work in step.work:
        scores = work.sequence.scores
        places = work.scored
        for start in range(places.start, places.stop, _ROWS):
            assert scores is not None
            asked = range(start, min(start + _ROWS, places.stop))
            rows = logits[first : first + len(asked)]
            first += len(asked)
            ids = [work.sequence.ids[position + 1] for position in asked]
            total = rows.logsumexp(dim=1)
            values, best = rows.topk(min(scores.top, rows.shape[1]), dim=1)
            own = rows.gather(1, torch.tensor(ids, device=rows.device)[:, None])[:, 0] - total
            tops = (values - total[:, None]).tolist()
            for token, logprob, names, top in zip(ids, own.tolist(), best.tolist(), tops, strict=True):
                scores.known.append((token, logprob, tuple(zip(names, top, strict=True))))

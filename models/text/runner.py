"""Runs one step: packed ids and positions in, the logits of the rows that choose a token out."""

import torch
from transformers import PreTrainedModel

from models.kernel_threads import use_threads
from models.text.attention import PagedStep, running
from models.text.kv_cache import KVCache
from models.text.scheduler import Step
from models.text.scoring import kept_rows


class Runner:
    """A model and its cache on one device; only the device's owner thread may call it."""

    def __init__(self, model: PreTrainedModel, cache: KVCache, device: torch.device, threads: int = 0) -> None:
        """`threads` compute on a CPU, 0 as many as the owner thread uses anyway."""
        self._threads = threads
        self._model = model
        self._cache = cache
        self._device = device
        self._states: torch.Tensor | None = None

    @torch.inference_mode()
    def run(self, step: Step) -> torch.Tensor:
        """`[rows, vocabulary]` float32 logits, one row for each token that `step` samples after, in order.

        Sequences that want their prompts scored, or pooled, get what this step says of them.
        """
        use_threads(self._threads)
        ids: list[int] = []
        positions: list[int] = []
        for work in step.work:
            ids.extend(work.ids)
            positions.extend(range(work.start, work.start + work.count))
        kept = kept_rows(step)
        # With nothing to sample the cheapest question is one row, thrown away.
        keep = torch.tensor(kept.rows or [len(ids) - 1], device=self._device)
        # The hook goes with the step: the model may outlive the runner, which must not keep the cache alive then.
        noting = self._model.get_output_embeddings().register_forward_pre_hook(self._note_states)
        with noting, running(PagedStep(step, self._cache, self._device)):
            output = self._model(
                input_ids=torch.tensor([ids], device=self._device),
                position_ids=torch.tensor([positions], device=self._device),
                use_cache=False,
                logits_to_keep=keep,
            )
        states, self._states = self._states, None
        if kept.pools:
            assert states is not None
            kept.pool(step, _rows_of(states, keep))
        logits = _rows_of(output.logits[0], keep).float()
        return kept.sampled(step, logits) if kept.rows else logits[:0]

    def _note_states(self, _head: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        """What the kept rows' logits are made of: models give it to nobody but their heads."""
        self._states = given[0][0]


def _rows_of(found: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """The rows `keep` of a step; some model classes give all of them, whatever they are asked for."""
    return found if len(found) == len(keep) else found[keep]

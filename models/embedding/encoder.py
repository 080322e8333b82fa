"""One forward pass: padded token ids in, pooled vectors out."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from models.embedding.sentence import Pooling
from models.kernel_threads import use_threads


class Encoder:
    """An encoder's weights and how its token states are pooled. Used by one thread."""

    def __init__(
        self, model: PreTrainedModel, pooling: Pooling, pad_id: int, device: torch.device, threads: int = 0
    ) -> None:
        """`threads` compute on a CPU, 0 as many as the owner thread uses anyway."""
        self._threads = threads
        self._model = model
        self._pooling = pooling
        self._pad_id = pad_id
        self._device = device

    @torch.inference_mode()
    def vectors(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """`[rows, dimensions]` in float32 on the CPU, not normalised. No row may be empty."""
        use_threads(self._threads)
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[self._pad_id] * (longest - len(row))] for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(longest) < lengths[:, None]).to(torch.int64)
        ids, mask = ids.to(self._device), mask.to(self._device)
        states: torch.Tensor = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        if self._pooling is Pooling.CLS:
            return states[:, 0].cpu()
        weights = mask[:, :, None].float()
        return ((states * weights).sum(dim=1) / weights.sum(dim=1)).cpu()

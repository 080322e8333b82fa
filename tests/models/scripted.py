"""A text engine whose model says what the test wrote, as far as its form lets it."""

from collections.abc import Sequence

import torch

from models.text.engine import TextEngine
from models.text.scheduler import Step
from models.text.tokenizer import TextTokenizer


class Script:
    """Stands in a runner's place. Each answer says `texts` of its turn, the last one for all further; then it ends.

    A token that a form forbids is lost: the likeliest one of those allowed comes instead, the rest goes on after it.
    """

    def __init__(self, tokenizer: TextTokenizer, vocabulary: int, texts: Sequence[str]) -> None:
        self._vocabulary = vocabulary
        self._end = tokenizer.settings.end_ids[-1]
        self._lines = [tokenizer._encode_rendered(text) for text in texts]
        self._turns: dict[int, int] = {}

    def run(self, step: Step) -> torch.Tensor:
        rows = []
        for work in step.work:
            if work.samples:
                turn = self._turns.setdefault(work.sequence.id, min(len(self._turns), len(self._lines) - 1))
                line = [*self._lines[turn], self._end]
                row = torch.zeros(self._vocabulary)
                row[line[min(work.sequence.new_tokens, len(line) - 1)]] = 20.0
                row[self._end] += 1.0
                rows.append(row)
        return torch.stack(rows) if rows else torch.zeros(0, self._vocabulary)


def follow_script(engine: TextEngine, *texts: str) -> None:
    """From now on the answers of `engine` are `texts`."""
    engine._runner = Script(engine._intake._tokenizer, 512, texts)

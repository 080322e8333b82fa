"""Whether a model computes in the engine what it computes in transformers.

A class that builds its own masks, or brings numbers into its attention that are not known here, would write nonsense
without a word: so a model whose layers are transformers' own reads two texts both ways before anybody asks it.
"""

from collections.abc import Sequence as Ids

import torch
from transformers import PreTrainedModel

from domain.errors import ModelLoadFailed
from domain.generation import SamplingParams
from models.text import attention
from models.text.execution import StepRunner
from models.text.scheduler import Scheduler
from models.text.sequence import Sequence

_LENGTHS = (22, 11)
_NEW_TOKENS = 3
# Parts of a row's spread. Another attention differs in the last bits, which narrow numbers and many layers add up.
_WIDE_ERROR = 1e-3
_NARROW_ERROR = 0.15


def check_numbers(model: PreTrainedModel, runner: StepRunner, scheduler: Scheduler, *, is_exact: bool) -> None:
    """Let a model that nobody uses yet read two texts in the engine and as transformers would.

    For the owner thread; `is_exact` says that weights, cache and all between them are float32. Raises ModelLoadFailed
    where the logits differ by more than rounding.
    """
    vocabulary = int(model.config.get_text_config().vocab_size)
    texts = [_text(length, vocabulary) for length in _LENGTHS]
    got = _read_in_engine(texts, runner, scheduler)
    expected = _read_by_transformers(texts, model)
    spread = (expected - expected.mean(dim=1, keepdim=True)).norm(dim=1)
    error = float(((got - expected).norm(dim=1) / spread).median())
    if not error <= (_WIDE_ERROR if is_exact else _NARROW_ERROR):
        raise ModelLoadFailed(
            f"models of the family '{model.config.model_type}' do not run here: over the engine's cache this one "
            f"computes something else than transformers does (by {error:.1%})"
        )


def _text(length: int, vocabulary: int) -> list[int]:
    """Some ids, few of them twice; control tokens, which stand at the beginning of most vocabularies, left out."""
    return [(vocabulary // 3 + 7 * place + place * place) % vocabulary for place in range(length)]


def _read_in_engine(texts: Ids[list[int]], runner: StepRunner, scheduler: Scheduler) -> torch.Tensor:
    """`[rows, vocabulary]` logits after the last tokens of each text, which come one by one, text after text."""
    rows: list[list[torch.Tensor]] = [[] for _ in texts]
    for number, text in enumerate(texts):
        known = text[:-_NEW_TOKENS]
        scheduler.add(Sequence(number, known, SamplingParams(), _NEW_TOKENS + 1, frozenset(), arrival=0.0))
    try:
        while scheduler.running or scheduler.waiting:
            step = scheduler.schedule()
            logits = runner.run(step)
            scheduler.complete(step)
            for work, places in step.shares():
                sequence, text = work.sequence, texts[work.sequence.id]
                rows[sequence.id].append(logits[places.start].cpu().clone())
                if len(sequence.ids) == len(text):
                    scheduler.finish(sequence, None)
                else:
                    sequence.append(text[len(sequence.ids)])
    finally:
        for sequence in list(scheduler.alive()):
            scheduler.finish(sequence, None)
    return torch.stack([row for each in rows for row in each])


def _read_by_transformers(texts: Ids[list[int]], model: PreTrainedModel) -> torch.Tensor:
    """The same logits, each text read by itself and in one piece."""
    model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            read = [model(input_ids=torch.tensor([text], device=model.device), use_cache=False) for text in texts]
    finally:
        model.set_attn_implementation(attention.NAME)
    return torch.cat([output.logits[0, -_NEW_TOKENS - 1 :].float().cpu() for output in read])

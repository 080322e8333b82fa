"""Targets without a server: packages, and the bare loop of kernels, each in a child process; see `worker`."""

from collections.abc import Mapping, Sequence

from benchmarks.figures import Decoding, Figures
from benchmarks.plan import Plan, Question, What
from benchmarks.turns import BARE
from benchmarks.worker import Ask, Worker

GENERATE = "generate"
GENERATE_BATCH = "generate_batch"
# At how many streams each way of transformers is measured; a static batch reads long prompts too.
PACKAGED: Mapping[str, Sequence[int]] = {GENERATE: (1, 8), GENERATE_BATCH: (8,)}


def asks(plan: Plan, model: str, device: str) -> Ask:
    """What every question to a worker says."""
    return {
        "model": model,
        "device": device,
        "prompt_tokens": plan.prompt_tokens,
        "long_prompt": plan.long_prompt,
        "new_tokens": plan.new_tokens,
    }


class Package:
    """One way in which transformers generates, a `Target`; the worker is `benchmarks.packages`."""

    quick = False

    def __init__(self, name: str, worker: Worker, ask: Ask) -> None:
        self.name = name
        self._worker = worker
        self._ask = ask

    def takes(self, question: Question) -> bool:
        """Whether this way of generating is measured so."""
        if question.what is What.PROMPT:
            return self.name == GENERATE
        return question.what is What.DECODING and question.streams in PACKAGED[self.name]

    def measure(self, question: Question) -> Figures:
        """Only what was asked for. Raises WorkerFailed."""
        if question.what is What.PROMPT:
            return Figures(prompt=self._worker.ask(do="prompt", **self._ask))
        rates = self._worker.ask(do=self.name, streams=question.streams, **self._ask)
        return Figures(decoding={question.streams: Decoding(question.streams, *rates)})


class BareLoop:
    """What the kernels do by themselves, a `Target`; the worker is `benchmarks.bare_loop`."""

    name = BARE
    quick = True

    def __init__(self, worker: Worker, ask: Ask) -> None:
        self._worker = worker
        self._ask = ask

    def describe(self) -> tuple[str, int]:
        """The kernel, and the bytes of weights that a step reads. Raises WorkerFailed."""
        answer = self._worker.ask(do="describe", **self._ask)
        return str(answer["kernel"]), int(answer["weight_bytes"])

    def takes(self, question: Question) -> bool:
        """It only decodes."""
        return question.what is What.DECODING

    def measure(self, question: Question) -> Figures:
        """Decoding, and the floor that memory set at that time. Raises WorkerFailed."""
        answer = self._worker.ask(do="decode", streams=question.streams, **self._ask)
        return Figures(
            decoding={question.streams: Decoding(question.streams, float(answer["tokens_per_second"]), None)},
            floor_seconds=float(answer["floor_seconds"]),
        )

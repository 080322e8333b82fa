"""The owner thread's side of an engine: answers begin, go on with every step, and end."""

import logging
from collections.abc import Callable

from domain.errors import DeadlineExceeded, GenerationFailed, IngleError, Overloaded
from domain.generation import FinishReason, TextChunk
from models.text.answer import Answer, Outbox, Stream
from models.text.execution import StepRunner
from models.text.sampler import Ranked, Sampler, Samples
from models.text.scheduler import Scheduler, Work
from models.text.sequence import Sequence

log = logging.getLogger(__name__)

# How long a text that nothing else stands before waits for memory that others have.
_PATIENCE = 30.0


class Answering:
    """The answers of one engine, each with its sequence in the scheduler. Only the owner thread may call it."""

    def __init__(
        self,
        scheduler: Scheduler,
        clock: Callable[[], float],
        model: str,
        awaits_memory: Callable[[], bool] = lambda: False,
    ) -> None:
        """`clock` is monotonic; `model` is the name that the log knows the model by.

        `awaits_memory` tells whether somebody makes room for the cache, who will have us go on.
        """
        self.scheduler = scheduler
        self.sampler = Sampler()
        self.answers: dict[int, Answer] = {}
        self._clock = clock
        self._model = model
        self._outbox = Outbox()
        self._awaits_memory = awaits_memory
        self._short_since: float | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits or runs."""
        return not (self.scheduler.running or self.scheduler.waiting)

    @property
    def can_go_on(self) -> bool:
        """Whether there is something to do before somebody else has made room."""
        return not self.is_idle and self._short_since is None

    def begin(self, stream: Stream) -> None:
        """Let the first of a request's answers wait for its turn; the others follow once it has read the prompt."""
        self._enter(stream.siblings.pop(0))

    def refuse(self, stream: Stream, error: IngleError) -> None:
        """End a request that has not begun."""
        stream.siblings.clear()
        self._outbox.put(stream, error)

    def step(self, runner: StepRunner | None) -> None:
        """One forward pass for everybody, whose callers then hear of it. Without a `runner` nobody may be there."""
        self._expire()
        if self.is_idle:
            self._short_since = None
        else:
            assert runner is not None
            self._advance(runner)
        self._outbox.deliver()

    def rest(self) -> None:
        """In place of a step while there is no model to run: deadlines pass, and callers hear of what has ended."""
        self._short_since = None
        self._expire()
        self._outbox.deliver()

    def drop(self, stream: Stream) -> None:
        """End whatever of a request has not ended: nobody listens any more, or one of its answers failed."""
        stream.siblings.clear()
        for answer in stream.begun:
            self._end(answer.sequence, None)

    def fail_all(self, error: IngleError) -> None:
        """End everything."""
        for sequence in list(self.scheduler.alive()):
            self._fail(sequence, error)

    def _enter(self, answer: Answer) -> None:
        answer.stream.begun.append(answer)
        self.answers[answer.sequence.id] = answer
        self.sampler.begin(answer.sequence, answer.grammar)
        self.scheduler.add(answer.sequence)

    def _advance(self, runner: StepRunner) -> None:
        step = self.scheduler.schedule()
        if not step.work:
            self._wait_for_memory()
            return
        self._short_since = None
        now = self._clock()
        for work in step.work:
            if work.sequence.started is None:
                work.sequence.started = now
        shares = step.shares()
        sequences = [work.sequence for work, rows in shares for _ in rows]
        try:
            samples = self.sampler.sample(runner.run(step), sequences)
        except Exception as error:
            log.exception("a step of %s failed", self._model)
            for work in step.work:
                self._fail(
                    work.sequence, GenerationFailed(f"the model failed while generating: {type(error).__name__}")
                )
            return
        self.scheduler.complete(step)
        for work, rows in shares:
            self._take_all(work, rows, samples)

    def _wait_for_memory(self) -> None:
        """Bear with whoever waits first while somebody makes room for it, for a while; else it is sent away."""
        stranded = self.scheduler.stranded
        if stranded is None:
            return
        now = self._clock()
        if self._short_since is None:
            self._short_since = now
        if not self._awaits_memory() or now - self._short_since >= _PATIENCE:
            self._short_since = None
            self._fail(stranded, Overloaded("the memory for a text this long is in use by other models: try again"))

    def _take_all(self, work: Work, rows: range, samples: Samples) -> None:
        """Take the token after the text, and those after guesses as long as these come true."""
        sequence = work.sequence
        tokens = work.confirmed(samples.tokens[rows.start : rows.stop])
        sequence.rejected += len(rows) - len(tokens)
        for number, token in enumerate(tokens):
            if number:
                self.scheduler.confirm(sequence)
            self._take(sequence, token, samples.ranked.get(rows[number]))

    def _take(self, sequence: Sequence, token: int | GenerationFailed, ranked: Ranked | None) -> None:
        answer = self.answers.get(sequence.id)
        if answer is None:
            return  # it has ended in this step: by a token before, or with another answer to the same request
        if sequence.first_token is None:
            sequence.first_token = self._clock()
            self._begin_siblings(answer.stream)
        if isinstance(token, GenerationFailed):
            self._fail(sequence, token)
            return
        if sequence.max_new_tokens == 0:
            self._finish(answer, FinishReason.LENGTH, None)
            return
        try:
            chunk, reason = answer.take(token, ranked)
        except GenerationFailed as error:
            self._fail(sequence, error)
            return
        if reason is not None:
            self._finish(answer, reason, chunk)
        elif chunk is not None:
            self._outbox.put(answer.stream, chunk)

    def _begin_siblings(self, stream: Stream) -> None:
        """The prompt is in the cache now: the other answers to it share its blocks."""
        siblings, stream.siblings = stream.siblings, []
        for sibling in siblings:
            self._enter(sibling)

    def _finish(self, answer: Answer, reason: FinishReason, last: TextChunk | None) -> None:
        self._end(answer.sequence, reason)
        self._outbox.put(answer.stream, answer.close(last, reason, self._clock()))

    def _end(self, sequence: Sequence, reason: FinishReason | None) -> None:
        """Take a sequence out; without a reason it was aborted."""
        self.scheduler.finish(sequence, reason)
        self.sampler.forget(sequence)
        self.answers.pop(sequence.id, None)

    def _fail(self, sequence: Sequence, error: IngleError) -> None:
        answer = self.answers.get(sequence.id)
        if answer is not None:
            self.drop(answer.stream)
            self._outbox.put(answer.stream, error)

    def _expire(self) -> None:
        now = self._clock()
        for sequence in list(self.scheduler.alive()):
            if sequence.deadline is None or now < sequence.deadline or sequence.id not in self.answers:
                continue
            answer = self.answers[sequence.id]
            if answer.stream.has_text:
                self._finish(answer, FinishReason.LENGTH, None)
            else:
                self._fail(sequence, DeadlineExceeded("the deadline passed before the first token"))

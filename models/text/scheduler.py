"""Which sequences run in the next step. It decides; it touches no tensor and reads no clock."""

from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TypeVar

from domain.generation import FinishReason
from models.text.block_manager import BlockManager
from models.text.lookup import DEEPEST, Lookup, allot
from models.text.sequence import Sequence, SequenceStatus

Token = TypeVar("Token")


@dataclass(frozen=True, slots=True)
class Work:
    """`count` tokens of `sequence`, from its first uncomputed one on; the last of them may be `guesses`."""

    sequence: Sequence
    start: int
    count: int
    guesses: tuple[int, ...] = ()

    @property
    def ids(self) -> list[int]:
        """The tokens that are read."""
        return [*self.sequence.ids[self.start : self.start + self.count], *self.guesses]

    @property
    def samples(self) -> bool:
        """Whether this work ends with a new token."""
        return self.start + self.count - len(self.guesses) == len(self.sequence.ids)

    @property
    def sampled(self) -> int:
        """How many of its last tokens the model is asked to go on from: the text's own last one, and each guess."""
        return 1 + len(self.guesses) if self.samples else 0

    def confirmed(self, tokens: Many[Token]) -> Many[Token]:
        """Of the tokens that come next by the model after each of `sampled` those before which every guess is right."""
        right = 0
        while right < len(self.guesses) and tokens[right] == self.guesses[right]:
            right += 1
        return tokens[: right + 1]

    @property
    def scored(self) -> range:
        """The positions whose logits score the prompt's next token, if the sequence wants that."""
        scores = self.sequence.scores
        return range(0) if scores is None else scores.wanted(self.start, self.count)


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass."""

    work: tuple[Work, ...]

    @property
    def tokens(self) -> int:
        """How many tokens pass through the model."""
        return sum(work.count for work in self.work)

    def shares(self) -> list[tuple[Work, range]]:
        """The works that sample, each with its rows of the logits; to be asked before any token is appended."""
        shares, row = [], 0
        for work in self.work:
            if work.samples:
                shares.append((work, range(row, row + work.sampled)))
                row += work.sampled
        return shares


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_running` sequences share a step, which reads at most `max_prefill_tokens` of prompts beside them.

    Prompts are read in chunks whose ends lie on multiples of `chunk`, so that an answer does not depend on who
    else was there. `max_prefill_tokens` must be at least `chunk`. `reserve` tokens of an answer get their place in
    the cache at once, if there is plenty. A step scores at most `scored` tokens of prompts: each of them has a row of
    logits, as wide as the vocabulary.
    """

    max_running: int = 16
    max_prefill_tokens: int = 512
    chunk: int = 256
    reserve: int = 512
    guesses: int = 32
    scored: int = 64


@dataclass(slots=True)
class Scheduler:
    """Waiting and running sequences: by priority, then with turns between clients, then first come first served.

    * Every running sequence that decodes is in every step, so a prompt never stops the others' streams.
    * Beside them the step reads prompts, oldest first, as far as its budget goes.
    * When blocks run out, the youngest running sequence gives its blocks back and is computed again later.
    * Guesses take only blocks that nobody else needs in the step. What was written for one that turns out wrong is
      overwritten by the next step, and no block is shared before all of its tokens are the text's own.
    """

    blocks: BlockManager
    limits: Limits = field(default_factory=Limits)
    waiting: deque[Sequence] = field(default_factory=deque)
    running: list[Sequence] = field(default_factory=list)
    preemptions: int = 0
    _turns: int = field(default=0, init=False)
    _last_turn: dict[str, int] = field(default_factory=dict, init=False)

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its turn."""
        self.waiting.append(sequence)

    def alive(self) -> Iterable[Sequence]:
        """Everybody who waits or runs."""
        yield from self.running
        yield from self.waiting

    def finish(self, sequence: Sequence, reason: FinishReason | None) -> None:
        """Take a sequence out, wherever it is, and free its blocks; `reason` is None for an abort."""
        if sequence.status is SequenceStatus.FINISHED:
            return
        if sequence.status is SequenceStatus.RUNNING:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self.blocks.release(sequence)
        sequence.status = SequenceStatus.FINISHED
        sequence.finish_reason = reason

    @property
    def stranded(self) -> Sequence | None:
        """Whoever waits first while nobody runs, after a step without work: no block will come free for it."""
        return self._next_waiting() if self.waiting and not self.running else None

    def schedule(self) -> Step:
        """Choose the work of the next step and give it the blocks that it needs; none, where too few can be had."""
        for sequence in self.running:
            if sequence.is_full:
                self._shift(sequence)
        preempted = self.preemptions
        work: list[Work] = []
        self._decode(work)
        budget = self.limits.max_prefill_tokens
        for sequence in list(self.running):
            if sequence.status is SequenceStatus.RUNNING and sequence.uncomputed > 1:
                budget -= self._prefill(sequence, budget, work)
        # Whoever just gave up blocks would take them back at once.
        while (
            budget > 0
            and self.waiting
            and len(self.running) < self.limits.max_running
            and self.preemptions == preempted
        ):
            sequence = self._next_waiting()
            if not self._admit(sequence):
                break
            count = self._prefill(sequence, budget, work)
            if count == 0:
                break
            budget -= count
        self._guess(work)
        return Step(tuple(work))

    def complete(self, step: Step) -> None:
        """The step's keys and values are in the cache now, but for guesses, which nobody has confirmed yet."""
        for work in step.work:
            work.sequence.computed = work.start + work.count - len(work.guesses)
            self.blocks.publish(work.sequence, work.start)

    def confirm(self, sequence: Sequence) -> None:
        """The newest token had been guessed in this step, so the cache has it; ended sequences are left alone."""
        if sequence.status is not SequenceStatus.RUNNING:
            return
        sequence.computed += 1
        sequence.accepted += 1
        self.blocks.publish(sequence, sequence.computed - 1)

    def _shift(self, sequence: Sequence) -> None:
        """Go on with half of the text, which is read anew but for a prefix that is still in the cache."""
        self.blocks.release(sequence)
        sequence.shift()
        self.blocks.match_prefix(sequence)

    def _decode(self, work: list[Work]) -> None:
        for sequence in list(self.running):
            decoding = sequence.status is SequenceStatus.RUNNING and sequence.uncomputed == 1
            if decoding and self._make_room(sequence, 1, work):
                work.append(Work(sequence, sequence.computed, 1))

    def _guess(self, work: list[Work]) -> None:
        """Let sequences that decode have guesses checked too, as far as that makes tokens cheaper."""
        decoding = [place for place, item in enumerate(work) if item.count == 1 and item.samples]
        asking: list[tuple[int, Sequence, Lookup]] = []
        for place in decoding:
            sequence = work[place].sequence
            if sequence.lookup is not None and sequence.new_tokens:
                sequence.lookup.follow(sequence.ids)
                asking.append((place, sequence, sequence.lookup))
        rooms = [min(sequence.room - 1, DEEPEST) for _, sequence, _ in asking]
        counts = allot([lookup for _, _, lookup in asking], rooms, len(decoding), self.limits.guesses)
        for (place, sequence, lookup), count in zip(asking, counts, strict=True):
            going_on = takewhile(lambda token: token not in sequence.stop_ids, lookup.guesses(sequence.ids, count))  # noqa: B023
            guesses = tuple(going_on)
            if guesses and self.blocks.grow(sequence, len(sequence.ids) + len(guesses)):
                work[place] = replace(work[place], count=1 + len(guesses), guesses=guesses)

    def _prefill(self, sequence: Sequence, budget: int, work: list[Work]) -> int:
        chunk = self.limits.chunk
        if sequence.is_scored:
            chunk = min(chunk, self.limits.scored)
            budget = min(budget, self.limits.scored - sum(item.count for item in work if item.sequence.is_scored))
        end = min(len(sequence.ids), (sequence.computed // chunk + 1) * chunk)
        count = end - sequence.computed
        if count > budget or not self._make_room(sequence, count, work):
            return 0
        work.append(Work(sequence, sequence.computed, count))
        return count

    def _next_waiting(self) -> Sequence:
        """The oldest request of the client who has the fewest running, or among equals of whom had no turn for longest.

        So nobody's flood stops the others. A higher priority goes before all that.
        """
        running: dict[str, int] = {}
        for sequence in self.running:
            running[sequence.client] = running.get(sequence.client, 0) + 1
        return min(
            self.waiting,
            key=lambda sequence: (
                -sequence.priority,
                running.get(sequence.client, 0),
                self._last_turn.get(sequence.client, 0),
            ),
        )

    def _note_turn(self, client: str) -> None:
        self._turns += 1
        self._last_turn[client] = self._turns
        if len(self._last_turn) > 2 * (len(self.running) + len(self.waiting)):
            present = {sequence.client for sequence in self.alive()}
            self._last_turn = {client: turn for client, turn in self._last_turn.items() if client in present}

    def _admit(self, sequence: Sequence) -> bool:
        """Bring a waiting sequence into the batch if its whole known text fits beside the others."""
        if not sequence.is_scored:
            self.blocks.match_prefix(sequence)
        if not self.blocks.has_free(self.blocks.blocks_for(len(sequence.ids) + 1) - len(sequence.blocks)):
            self.blocks.release(sequence)
            return False
        self._reserve(sequence)
        sequence.cached = max(sequence.cached, min(sequence.computed, sequence.prompt_length))
        self.waiting.remove(sequence)
        self.running.append(sequence)
        self._note_turn(sequence.client)
        sequence.status = SequenceStatus.RUNNING
        return True

    def _reserve(self, sequence: Sequence) -> None:
        """Take blocks for the answer too while there are plenty: those taken together lie side by side in the cache."""
        tokens = len(sequence.ids) + min(sequence.max_new_tokens, self.limits.reserve)
        missing = self.blocks.blocks_for(tokens) - len(sequence.blocks)
        if missing <= self.blocks.num_free // 2:
            self.blocks.grow(sequence, tokens)

    def _make_room(self, sequence: Sequence, count: int, work: list[Work]) -> bool:
        """Find blocks for `count` more tokens, if need be the youngest's, who then leaves `work` too.

        False if `sequence` itself was the youngest and had to go.
        """
        while not self.blocks.grow(sequence, sequence.computed + count):
            victim = self.running[-1]
            self._preempt(victim)
            work[:] = [item for item in work if item.sequence is not victim]
            if victim is sequence:
                return False
        return True

    def preempt_all(self) -> None:
        """Have everybody wait, in the order in which they ran. No block is in use then: the cache may be another."""
        for sequence in reversed(list(self.running)):
            self._preempt(sequence)

    def _preempt(self, victim: Sequence) -> None:
        self.running.remove(victim)
        self.blocks.release(victim)
        victim.status = SequenceStatus.WAITING
        self.waiting.appendleft(victim)
        self.preemptions += 1

"""Scheduler and block manager as a state machine, against a runner that only counts."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from domain.generation import FinishReason, SamplingParams
from models.text.block_manager import BlockManager
from models.text.lookup import Lookup
from models.text.prompt_scores import PromptScores
from models.text.scheduler import Limits, Scheduler, Step
from models.text.sequence import Sequence, SequenceStatus

BLOCK = 4
GREEDY = SamplingParams(temperature=0.0)


def next_token(ids: list[int], memory: int) -> int:
    """What a model would say: a function of the text, so a wrong history shows; a short memory makes it repetitive."""
    return hash(tuple(ids[-memory:])) % 7


class ServingMachine(RuleBasedStateMachine):
    """Requests come, run, are aborted; `cache` is what a real cache would hold in each block."""

    @initialize(
        blocks=st.integers(4, 12),
        running=st.integers(1, 5),
        chunk=st.sampled_from([4, 6, 8]),
        guesses=st.sampled_from([0, 1, 5, 32]),
        memory=st.sampled_from([2, 3, 100]),
        parts=st.booleans(),
    )
    def build(self, blocks: int, running: int, chunk: int, guesses: int, memory: int, parts: bool) -> None:
        self.limits = Limits(max_running=running, max_prefill_tokens=chunk * 2, chunk=chunk, guesses=guesses)
        self.memory = memory
        self.scheduler = Scheduler(BlockManager(blocks, BLOCK, copy=self.copy if parts else None), self.limits)
        self.capacity = blocks * BLOCK
        self.cache: dict[int, list[int | None]] = {block: [None] * BLOCK for block in range(blocks)}
        self.sequences: list[Sequence] = []
        self.steps_without_progress = 0

    def copy(self, source: int, target: int) -> None:
        self.cache[target] = list(self.cache[source])

    @rule(
        prefix=st.sampled_from([[1, 2, 3, 4] * 2, [1, 2, 3, 4, 5, 5, 5, 5], [5, 5, 5, 5] * 2]),
        rest=st.lists(st.integers(4, 5), min_size=1, max_size=6),
        new=st.integers(1, 12),
        client=st.sampled_from("ab"),
        priority=st.integers(-1, 1),
        keeping=st.none() | st.integers(0, 8),
        guesses=st.booleans(),
    )
    def ask(
        self,
        prefix: list[int],
        rest: list[int],
        new: int,
        client: str,
        priority: int,
        keeping: int | None,
        guesses: bool,
    ) -> None:
        ids = (prefix + rest)[: self.capacity - 1]
        if keeping is None:
            new = min(new, self.capacity - len(ids))
        sequence = Sequence(len(self.sequences), ids, GREEDY, new, frozenset(), 0.0, client=client, priority=priority)
        sequence.keeping, sequence.context = keeping, min(self.capacity, len(ids) + 3)
        sequence.lookup = Lookup() if guesses else None
        self.sequences.append(sequence)
        self.scheduler.add(sequence)

    @rule(pick=st.randoms(use_true_random=False))
    def abort(self, pick: object) -> None:
        alive = list(self.scheduler.alive())
        if alive:
            self.scheduler.finish(pick.choice(alive), None)  # type: ignore[attr-defined]

    @rule()
    def drop_cache(self) -> None:
        self.scheduler.blocks.drop_cached()

    @rule(steps=st.integers(1, 6))
    def run(self, steps: int) -> None:
        for _ in range(steps):
            if self.scheduler.running or self.scheduler.waiting:
                self.one_step()

    def one_step(self) -> None:
        step = self.scheduler.schedule()
        assert step.work, "somebody waits and nobody runs"
        self.check_budget(step)
        self.compute(step)
        self.scheduler.complete(step)
        for work, rows in step.shares():
            texts = [work.sequence.ids + list(work.guesses[:count]) for count in range(len(rows))]
            confirmed = work.confirmed([next_token(text, self.memory) for text in texts])
            for number, token in enumerate(confirmed):
                if number:
                    self.scheduler.confirm(work.sequence)
                reason = work.sequence.append(token)
                if reason is not None:
                    assert number == len(confirmed) - 1, "guesses went beyond the end"
                    self.scheduler.finish(work.sequence, reason)

    def check_budget(self, step: Step) -> None:
        assert len({work.sequence.id for work in step.work}) == len(step.work) <= self.limits.max_running
        prefill = sum(work.count for work in step.work if work.count > 1 and not work.guesses)
        assert sum(len(work.guesses) for work in step.work) <= self.limits.guesses
        assert all(work.sequence.lookup is not None for work in step.work if work.guesses)
        assert prefill <= self.limits.max_prefill_tokens
        for work in step.work:
            end = work.start + work.count
            assert work.samples or end % self.limits.chunk == 0

    def compute(self, step: Step) -> None:
        """Write what a forward pass would write, and see that everything before it is still there."""
        for work in step.work:
            sequence, text = work.sequence, work.sequence.ids + list(work.guesses)
            assert work.ids == text[work.start : work.start + work.count]
            for position in range(work.start + work.count):
                block, offset = sequence.blocks[position // BLOCK], position % BLOCK
                # Keys and values depend on everything before them, so the whole history is what a place holds.
                history = hash(tuple(text[: position + 1]))
                if position >= work.start:
                    self.cache[block][offset] = history
                assert self.cache[block][offset] == history, "the cache holds another text"

    @invariant()
    def blocks_are_counted_rightly(self) -> None:
        self.scheduler.blocks.check(list(self.scheduler.alive()))

    @invariant()
    def texts_are_what_the_model_says(self) -> None:
        for sequence in self.sequences:
            ids = sequence.ids[: len(sequence.ids) - len(sequence.output_ids)]
            if sequence.dropped:
                assert len(sequence.ids) <= sequence.context
                continue  # its older words were an answer to what is gone
            for token in sequence.output_ids:
                assert token == next_token(ids, self.memory)
                ids.append(token)

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for _ in range(20_000):
            if not (self.scheduler.running or self.scheduler.waiting):
                break
            self.one_step()
        assert all(sequence.status is SequenceStatus.FINISHED for sequence in self.sequences), "somebody never ends"
        assert self.scheduler.blocks.num_free == self.scheduler.blocks.num_blocks


ServingMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
test_serving = ServingMachine.TestCase


def test_clients_take_turns_whatever_the_order_of_arrival() -> None:
    scheduler = Scheduler(BlockManager(64, BLOCK), Limits(max_running=2, max_prefill_tokens=64, chunk=8))
    for number, client in enumerate("aaab"):
        scheduler.add(Sequence(number, [1, 2], GREEDY, 4, frozenset(), 0.0, client=client))
    step = scheduler.schedule()
    assert [work.sequence.client for work in step.work] == ["a", "b"]


def served(scheduler: Scheduler, asked: list[tuple[str, int]]) -> list[int]:
    """The order in which requests of (client, priority) begin, each of which ends with its first token."""
    for number, (client, priority) in enumerate(asked):
        scheduler.add(Sequence(number, [1, 2], GREEDY, 1, frozenset(), 0.0, client=client, priority=priority))
    order = []
    while scheduler.waiting:
        step = scheduler.schedule()
        scheduler.complete(step)
        for work in step.work:
            order.append(work.sequence.id)
            scheduler.finish(work.sequence, FinishReason.LENGTH)
    return order


def test_a_flood_of_two_clients_does_not_stop_a_third_even_with_one_place() -> None:
    scheduler = Scheduler(BlockManager(64, BLOCK), Limits(max_running=1, max_prefill_tokens=64, chunk=8))
    order = served(scheduler, [(client, 0) for client in "aaaaabbbbbc"])
    assert order == [0, 5, 10, 1, 6, 2, 7, 3, 8, 4, 9]


def test_a_higher_priority_goes_first_and_equals_keep_their_order() -> None:
    scheduler = Scheduler(BlockManager(64, BLOCK), Limits(max_running=1, max_prefill_tokens=64, chunk=8))
    assert served(scheduler, [("a", 0), ("a", -10), ("b", 3), ("a", 10), ("a", 0), ("b", 3)]) == [3, 2, 5, 0, 4, 1]


def test_clients_who_left_are_forgotten() -> None:
    scheduler = Scheduler(BlockManager(64, BLOCK), Limits(max_running=2, max_prefill_tokens=64, chunk=8))
    for number in range(200):
        served(scheduler, [(f"client {number}", 0)])
    assert len(scheduler._last_turn) <= 2


def test_decodes_never_wait_for_a_prompt() -> None:
    scheduler = Scheduler(BlockManager(64, BLOCK), Limits(max_running=4, max_prefill_tokens=8, chunk=8))
    scheduler.add(Sequence(0, [1, 2], GREEDY, 20, frozenset(), 0.0))
    scheduler.complete(scheduler.schedule())
    scheduler.running[0].append(3)
    scheduler.add(Sequence(1, list(range(40)), GREEDY, 4, frozenset(), 0.0))
    for _ in range(5):
        step = scheduler.schedule()
        assert [work.count for work in step.work] == [1, 8]
        scheduler.complete(step)
        for work in step.work:
            if work.samples:
                work.sequence.append(5)


def test_a_step_scores_only_so_many_tokens_of_prompts_and_lets_others_read_beside_them() -> None:
    limits = Limits(max_running=4, max_prefill_tokens=64, chunk=32, scored=12)
    scheduler = Scheduler(BlockManager(64, BLOCK), limits)
    for number, top in enumerate((1, None, 1)):
        scores = None if top is None else PromptScores(30, top)
        scheduler.add(Sequence(number, list(range(30)), GREEDY, 1, frozenset(), 0.0, scores=scores))
    counts: dict[int, list[int]] = {0: [], 1: [], 2: []}
    while scheduler.running or scheduler.waiting:
        step = scheduler.schedule()
        assert sum(len(work.scored) for work in step.work) <= limits.scored
        scheduler.complete(step)
        for work in step.work:
            counts[work.sequence.id].append(work.count)
            if work.sequence.scores is not None:
                work.sequence.scores.known += [(0, 0.0, ())] * len(work.scored)
            if work.samples:
                scheduler.finish(work.sequence, FinishReason.LENGTH)
    assert counts == {0: [12, 12, 6], 1: [30], 2: [12, 12, 6]}


def test_a_text_goes_on_in_a_copy_where_it_leaves_a_known_one_in_the_middle_of_a_block() -> None:
    copies: list[tuple[int, int]] = []
    blocks = BlockManager(3, BLOCK, copy=lambda source, target: copies.append((source, target)))
    scheduler = Scheduler(blocks, Limits(max_running=1, max_prefill_tokens=64, chunk=8))

    def read(*ids: int) -> tuple[int, int]:
        """How many tokens were known, and how many had to be read."""
        sequence = Sequence(0, list(ids), GREEDY, 1, frozenset(), 0.0)
        scheduler.add(sequence)
        step = scheduler.schedule()
        scheduler.complete(step)
        scheduler.finish(sequence, None)
        return sequence.cached, step.tokens

    assert read(1, 2, 3, 4, 5, 6, 7, 8) == (0, 8)
    assert read(1, 2, 3, 4, 5, 6, 9) == (6, 1)
    assert copies == [(1, 2)]
    # Alike to its end: the last token is read, or there would be nothing to go on from.
    assert read(1, 2, 3, 4, 5, 6, 7) == (6, 1)
    assert read(1, 2, 9) == (2, 1)
    assert read(9, 2, 3) == (0, 3)
    # Everything is in use but for the block that is to be copied: it is not taken for its own copy.
    running = Sequence(1, [1, 2, 3, 4, 1, 1, 1, 1], GREEDY, 4, frozenset(), 0.0)
    scheduler.add(running)
    scheduler.schedule()
    blocks.check([running])
    assert blocks.num_free == 1
    late = Sequence(2, [1, 2, 3, 4, 5, 6, 9], GREEDY, 1, frozenset(), 0.0)
    blocks.match_prefix(late)
    assert late.computed == BLOCK
    blocks.check([running, late])


def test_a_finished_sequence_tells_why() -> None:
    sequence = Sequence(0, [1, 2], GREEDY, 2, frozenset({9}), 0.0)
    assert sequence.append(3) is None
    assert sequence.append(4) is FinishReason.LENGTH
    assert Sequence(0, [1], GREEDY, 5, frozenset({9}), 0.0).append(9) is FinishReason.STOP
    assert Sequence(0, [1], GREEDY, 5, frozenset({9}), 0.0).append(9, may_end=False) is None

"""Which blocks of the KV cache belong to whom. It counts; the tensors are in `kv_cache`."""

import itertools
from collections import OrderedDict
from collections.abc import Callable
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from itertools import takewhile

from models.text.sequence import Sequence

# The content of a block: the content number of the block before it, and its own token ids.
Key = tuple[int, tuple[int, ...]]

_ROOT = 0


@dataclass(slots=True)
class _Block:
    users: int = 0
    key: Key | None = None
    content: int = 0


class BlockManager:
    """Allocates fixed-size blocks, shares full ones between sequences with the same prefix.

    * A block is either free, or used by at least one sequence; used blocks are never given away.
    * A full block is known by its content. Equal content means equal keys and values, because position and
      prefix are equal too. Content numbers are never used twice, so a child of forgotten content is never found.
    * A free block keeps its content until it is needed for something else, least recently freed first.
    * Only blocks that were granted are given out. `ask`, told how many more are wanted, answers how many may be had.
    * Where a text leaves a known one in the middle of a block, it goes on in a copy, which `copy` makes at once, from
      the first of its blocks to the second. Of several such blocks the newest with the same first token is looked at.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        *,
        granted: int | None = None,
        ask: Callable[[int], int] | None = None,
        copy: Callable[[int, int], None] | None = None,
    ) -> None:
        """`granted` of the blocks can be used from the start: all of them, if it is None.

        `copy` is None where a text may be read anew in whole blocks only.
        """
        self.block_size = block_size
        self._blocks = [_Block() for _ in range(num_blocks)]
        start = num_blocks if granted is None else min(granted, num_blocks)
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(start))
        self._withheld = list(range(start, num_blocks))
        self._untouched = set(range(num_blocks))
        self._ask = ask
        self._copy = copy
        self._by_key: dict[Key, int] = {}
        # The newest block by the content before it and its first token.
        self._newest: dict[tuple[int, int], int] = {}
        self._content_numbers = itertools.count(_ROOT + 1)

    @property
    def num_blocks(self) -> int:
        """How many blocks there are."""
        return len(self._blocks)

    @property
    def num_granted(self) -> int:
        """How many of them may be used."""
        return len(self._blocks) - len(self._withheld)

    @property
    def num_gaps(self) -> int:
        """How many of the blocks that may not be used come before one that may."""
        withheld = set(self._withheld)
        last = next((block for block in reversed(range(len(self._blocks))) if block not in withheld), -1)
        return last + 1 - self.num_granted

    @property
    def num_untouched(self) -> int:
        """How many of the granted ones were not used since they were granted."""
        return len(self._untouched) - len(self._withheld)

    @property
    def num_cached(self) -> int:
        """How many blocks nobody uses keep a content that may be asked for again."""
        return sum(self._blocks[block].key is not None for block in self._free)

    @property
    def num_free(self) -> int:
        """How many blocks nobody uses."""
        return len(self._free)

    def blocks_for(self, tokens: int) -> int:
        """How many blocks hold `tokens` tokens."""
        return -(-tokens // self.block_size)

    def match_prefix(self, sequence: Sequence) -> None:
        """Give a fresh sequence what the cache has of its prefix; its last token is always computed anew."""
        assert not sequence.blocks
        parent = _ROOT
        for end in range(self.block_size, len(sequence.ids), self.block_size):
            block = self._by_key.get((parent, tuple(sequence.ids[end - self.block_size : end])))
            if block is None:
                break
            self._hold(block)
            sequence.blocks.append(block)
            parent = self._blocks[block].content
        sequence.computed = len(sequence.blocks) * self.block_size
        if self._copy is not None:
            self._match_part(sequence, parent, self._copy)

    def _match_part(self, sequence: Sequence, parent: int, copy: Callable[[int, int], None]) -> None:
        """Go on in a copy of the block that begins as the sequence does after what it has, as far as they are alike."""
        start = sequence.computed
        source = self._newest.get((parent, sequence.ids[start]))
        if source is None:
            return
        key = self._blocks[source].key
        assert key is not None
        own = sequence.ids[start : min(start + self.block_size, len(sequence.ids) - 1)]
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(key[1], own, strict=False)))
        # Held, or it might be the free block that is taken for the copy.
        self._hold(source)
        if alike and self.grow(sequence, start + alike):
            copy(source, sequence.blocks[-1])
            sequence.computed = start + alike
        self._let_go(source)

    def has_free(self, count: int) -> bool:
        """Whether `count` blocks are free, or can be had."""
        missing = count - len(self._free)
        if missing > 0 and self._ask is not None and missing <= len(self._withheld):
            self.grant(self._ask(missing))
        return count <= len(self._free)

    def stop_asking(self) -> None:
        """There will be no more blocks; whoever was asked is let go."""
        self._ask = None

    def grant(self, count: int) -> None:
        """Let `count` more blocks be used, those with the lowest numbers."""
        granted, self._withheld = self._withheld[:count], self._withheld[count:]
        self._free.update(dict.fromkeys(granted))
        for block in reversed(granted):
            self._free.move_to_end(block, last=False)

    def give_back(self, keep: int) -> Ids[int]:
        """Forget what free blocks hold, and withhold them as far as more than `keep` are granted.

        Returns the blocks whose memory nobody needs now.
        """
        self.drop_cached()
        idle = sorted(self._free)
        surplus = idle[len(idle) - min(len(idle), max(0, self.num_granted - keep)) :]
        # In this order: others may count the untouched meanwhile, and must not count too few.
        self._untouched.update(idle)
        self._withheld = sorted([*self._withheld, *surplus])
        self._free = OrderedDict.fromkeys(idle[: len(idle) - len(surplus)])
        return idle

    def grow(self, sequence: Sequence, tokens: int) -> bool:
        """Make room for `tokens` tokens in all; False, and nothing changed, if there are not enough blocks."""
        missing = self.blocks_for(tokens) - len(sequence.blocks)
        if not self.has_free(missing):
            return False
        for _ in range(missing):
            block, _ = self._free.popitem(last=False)
            self._forget(block)
            self._untouched.discard(block)
            self._blocks[block].users = 1
            sequence.blocks.append(block)
        return True

    def publish(self, sequence: Sequence, before: int) -> None:
        """Let others share the blocks that became full since `before` tokens were computed.

        A block whose content is known elsewhere stays private, and so do those that come after it.
        """
        for index in range(before // self.block_size, sequence.computed // self.block_size):
            parent = self._blocks[sequence.blocks[index - 1]].content if index else _ROOT
            record = self._blocks[sequence.blocks[index]]
            key = (parent, tuple(sequence.ids[index * self.block_size : (index + 1) * self.block_size]))
            if (index and parent == _ROOT) or key in self._by_key:
                return
            record.key, record.content = key, next(self._content_numbers)
            self._by_key[key] = self._newest[parent, key[1][0]] = sequence.blocks[index]

    def release(self, sequence: Sequence) -> None:
        """Give back all blocks of a sequence, its tail first, so that prefixes outlive their continuations."""
        for block in reversed(sequence.blocks):
            self._let_go(block)
        sequence.blocks.clear()
        sequence.computed = 0

    def _hold(self, block: int) -> None:
        self._blocks[block].users += 1
        self._free.pop(block, None)

    def _let_go(self, block: int) -> None:
        record = self._blocks[block]
        record.users -= 1
        assert record.users >= 0
        if record.users == 0:
            self._free[block] = None
            if record.key is None:
                self._free.move_to_end(block, last=False)

    def drop_cached(self) -> int:
        """Forget the content of all free blocks; tells how many had any."""
        cached = [block for block in self._free if self._blocks[block].key is not None]
        for block in cached:
            self._forget(block)
        return len(cached)

    def _forget(self, block: int) -> None:
        record = self._blocks[block]
        if record.key is not None:
            parent, ids = record.key
            del self._by_key[record.key]
            if self._newest.get((parent, ids[0])) == block:
                del self._newest[parent, ids[0]]
        record.key, record.content = None, _ROOT

    def check(self, sequences: Ids[Sequence]) -> None:
        """Assert the invariants against the sequences that are alive; for tests and idle time."""
        users = [0] * len(self._blocks)
        for sequence in sequences:
            for block in sequence.blocks:
                users[block] += 1
        assert not set(self._withheld) & set(self._free)
        for number, record in enumerate(self._blocks):
            if number in self._withheld:
                assert record.users == users[number] == 0, f"block {number} is withheld and used"
                continue
            assert record.users == users[number], f"block {number}: {record.users} users, {users[number]} seen"
            assert (record.users == 0) == (number in self._free), f"block {number} is free and used, or neither"
        assert all(self._blocks[block].key == key for key, block in self._by_key.items())
        for (parent, first), block in self._newest.items():
            key = self._blocks[block].key
            assert key is not None
            assert (parent, first) == (key[0], key[1][0])

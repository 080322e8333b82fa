"""What a text will say next, looked up in what it said before, and how many of such guesses a step should check.

An answer that copies from its prompt, or from itself, is guessed rightly token after token, and a step that checks a
few guesses costs little more than one that decodes one token. Nothing here touches a tensor or changes an answer: a
guess that the model does not confirm is thrown away.
"""

import heapq
from array import array
from collections.abc import Iterator
from collections.abc import Sequence as Ids

# The shortest match is two tokens, what `_key` joins; one of so many is as good as a longer one.
_SHORTEST, _LONGEST = 2, 8
# How many earlier places are compared when a match ends; the latest come first.
_PLACES = 8
# How likely the token after a match of each length is guessed rightly, until the text has shown it.
_AT_FIRST = (0.0, 0.0, 0.3, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8)
# The share of the newest token in such a chance.
_NEWEST = 1 / 8
# No sequence gets more guesses than this in one step.
DEEPEST = 15
# What a step of so many rows costs, in milliseconds of the 0.5B model: measured with the native kernels, where 1 row
# takes 15.4, 4 take 15.9, 8 take 17 and 16 take 23.4. Most of it goes into reading the weights, and rows are multiplied
# four at a time, the first eight while memory is waited for anyway; choosing a token takes a little for each row too.
# Only ratios matter here, and those are much the same for models of other sizes.
_STEP, _ROW, _TILE, _ROWS_A_TILE, _FREE_TILES = 15.0, 0.4, 2.4, 4, 2
# Guesses must make tokens cheaper by so much, since chances are estimates.
_WORTH = 1.03


class Lookup:
    """Finds where the end of one text stood in it before; it learns from every token how far to trust that.

    Whether a guess was right shows with the next token, checked by the model beforehand or not, so what is not
    trusted any more costs nothing and can be trusted again. Work for a token does not grow with the text.
    """

    __slots__ = ("_chances", "_earlier", "_latest", "_length", "_source")

    def __init__(self) -> None:
        self._chances = list(_AT_FIRST)
        self.forget()

    def forget(self) -> None:
        """The text has changed in its middle: read it anew. What was learned about guesses stays."""
        self._latest: dict[int, int] = {}
        # For each place in the text the latest earlier one with the same last two tokens, or -1.
        self._earlier = array("i")
        self._source: int | None = None
        self._length = 0

    def follow(self, ids: Ids[int]) -> None:
        """Catch up with the text, which goes on where it ended the last time."""
        known = len(self._earlier)
        if not known:
            self._read(ids[:-1])
            known = len(self._earlier)
        for place in range(known, len(ids)):
            self._observe(ids, place)

    def prospects(self) -> Iterator[float]:
        """The chances that the next token is guessed rightly, that the next two are, and so on without end."""
        chance = 1.0
        length = self._length
        while self._source is not None:
            chance *= self._chances[length]
            length = min(length + 1, _LONGEST)
            yield chance

    def guesses(self, ids: Ids[int], count: int) -> list[int]:
        """The next `count` tokens of the text `ids`, none where it ends like no earlier part of it."""
        if self._source is None:
            return []
        guessed = list(ids[self._source : self._source + count])
        period = len(ids) - self._source
        while len(guessed) < count:
            # The source ran into the text's end: what repeats goes on repeating.
            guessed.append(guessed[-period])
        return guessed

    def _read(self, ids: Ids[int]) -> None:
        """Note all places of a text that was not observed token by token."""
        latest, earlier = self._latest, self._earlier
        before = -1
        for place, token in enumerate(ids):
            key = _key(before, token)
            earlier.append(latest.get(key, -1) if place else -1)
            if place:
                latest[key] = place
            before = token

    def _observe(self, ids: Ids[int], place: int) -> None:
        if self._source is not None:
            right = ids[self._source] == ids[place]
            self._chances[self._length] += _NEWEST * (right - self._chances[self._length])
            if right:
                self._source += 1
                self._length = min(self._length + 1, _LONGEST)
            else:
                self._source = None
        key = _key(ids[place - 1], ids[place]) if place else None
        found = -1 if key is None else self._latest.get(key, -1)
        if self._source is None and found >= 0:
            self._search(ids, place, found)
        self._earlier.append(found)
        if key is not None:
            self._latest[key] = place

    def _search(self, ids: Ids[int], end: int, place: int) -> None:
        """Go on from the longest match with the text that ends at `end`; among equals from the latest, like `place`."""
        self._length = 0
        for _ in range(_PLACES):
            length = _SHORTEST
            while length < _LONGEST and length <= place and ids[place - length] == ids[end - length]:
                length += 1
            if length > self._length:
                self._source, self._length = place + 1, length
            place = self._earlier[place]
            if place < 0 or length == _LONGEST:
                break


def allot(lookups: Ids[Lookup], rooms: Ids[int], streams: int, most: int) -> list[int]:
    """How many guesses each of `lookups` may have checked in a step that decodes `streams` sequences.

    Each may have as many as its room, all together `most`. The likeliest come first, as many as make the tokens that
    the step is expected to give cheapest: a lone stream has many checked, of many streams those that copy.
    """
    chances = [lookup.prospects() for lookup in lookups]
    likeliest = [
        (-chance, number)
        for number, room in enumerate(rooms)
        if room > 0 and (chance := next(chances[number], 0.0)) > 0.0
    ]
    heapq.heapify(likeliest)
    taken: list[int] = []
    counts = [0] * len(lookups)
    tokens, cheapest, worth = float(streams), _cost(streams) / max(streams, 1) / _WORTH, 0
    while likeliest and len(taken) < most:
        chance, number = likeliest[0]
        tokens -= chance
        taken.append(number)
        counts[number] += 1
        if (price := _cost(streams + len(taken)) / tokens) < cheapest:
            cheapest, worth = price, len(taken)
        if counts[number] < rooms[number]:
            heapq.heapreplace(likeliest, (-next(chances[number]), number))
        else:
            heapq.heappop(likeliest)
    for number in taken[worth:]:
        counts[number] -= 1
    return counts


def _cost(rows: int) -> float:
    return _STEP + _ROW * rows + _TILE * max(0, -(-rows // _ROWS_A_TILE) - _FREE_TILES)


def _key(first: int, second: int) -> int:
    return first << 32 | second

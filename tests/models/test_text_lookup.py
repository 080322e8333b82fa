"""Guesses by prompt lookup: what is found, and when it pays."""

import random
from itertools import islice

import pytest

from models.text.lookup import DEEPEST, Lookup, allot


def read(ids: list[int]) -> Lookup:
    lookup = Lookup()
    lookup.follow(ids)
    return lookup


def chances(lookup: Lookup, count: int = 3) -> list[float]:
    return list(islice(lookup.prospects(), count))


def taught(lookup: Lookup, ids: list[int], tokens: list[int]) -> Lookup:
    """After `tokens` came one by one."""
    for token in tokens:
        ids.append(token)
        lookup.follow(ids)
    return lookup


def copying() -> Lookup:
    """In the middle of an answer that copies."""
    text = list(range(100))
    return taught(read([*text, 0, 1]), [*text, 0, 1], text[2:60])


# -- what is found -------------------------------------------------------------------------------------


def test_the_text_goes_on_as_it_did_after_the_longest_match() -> None:
    ids = [1, 2, 3, 4, 5, 9, 2, 3, 6, 7, 1, 2, 3]
    assert read(ids).guesses(ids, 2) == [4, 5]


def test_among_equal_matches_the_latest_counts() -> None:
    ids = [1, 2, 5, 1, 2, 6, 1, 2]
    assert read(ids).guesses(ids, 1) == [6]


def test_what_repeats_is_guessed_to_go_on_beyond_the_end() -> None:
    ids = [7, 1, 2, 3, 1, 2, 3]
    assert read(ids).guesses(ids, 7) == [1, 2, 3, 1, 2, 3, 1]


@pytest.mark.parametrize("ids", [[5], [5, 6], [1, 2, 3, 4], [1, 2, 3, 2, 1]])
def test_a_text_without_a_repeated_pair_gives_no_guess(ids: list[int]) -> None:
    lookup = read(ids)
    assert lookup.guesses(ids, 4) == chances(lookup) == []


def test_a_text_that_comes_token_by_token_is_known_as_well_as_one_read_at_once() -> None:
    dice = random.Random(3)
    text = [dice.randrange(6) for _ in range(400)]
    slowly = read(text[:1])
    for end in range(2, len(text) + 1):
        slowly.follow(text[:end])
        at_once = read(text[:end])
        assert list(slowly._earlier) == list(at_once._earlier)
        assert slowly._latest == at_once._latest
        assert bool(slowly.guesses(text[:end], 1)) == bool(at_once.guesses(text[:end], 1))


def test_a_text_that_changed_in_its_middle_is_read_anew() -> None:
    ids = [1, 2, 3, 1, 2]
    lookup = read(ids)
    lookup.forget()
    del ids[2]
    lookup.follow(ids)
    assert lookup.guesses(ids, 1) == [1]


# -- when it pays --------------------------------------------------------------------------------------


def test_chances_rise_where_guesses_come_true_and_fall_where_they_do_not() -> None:
    fresh = chances(read([1, 2, 3, 1, 2]))
    assert fresh == sorted(fresh, reverse=True)
    assert chances(copying())[2] > 0.9 > fresh[0]
    dice = random.Random(1)
    ids = [dice.randrange(3) for _ in range(50)]
    lookup = read(ids)
    # The same pairs all the time, and never followed by the same.
    for _ in range(200):
        wrong = next(token for token in (0, 1, 2) if token not in lookup.guesses(ids, 1))
        taught(lookup, ids, [wrong])
    assert all(chance < 0.01 for chance in chances(lookup))
    assert allot([lookup], [DEEPEST], streams=1, most=32) == [0]


def test_a_lone_copy_gets_many_guesses_and_one_among_many_streams_fewer_but_before_all_others() -> None:
    doubtful = read([1, 2, 3, 1, 2])
    (alone,) = allot([copying()], [DEEPEST], streams=1, most=32)
    among = allot([doubtful, copying(), doubtful], [DEEPEST] * 3, streams=16, most=32)
    assert alone == DEEPEST >= among[1] > 0
    assert among[1] > 4 * max(among[0], among[2])


def test_no_step_checks_more_than_it_may() -> None:
    assert sum(allot([copying() for _ in range(4)], [DEEPEST] * 4, streams=4, most=32)) == 32
    assert allot([copying(), copying()], [3, 0], streams=2, most=32) == [3, 0]
    assert allot([copying()], [DEEPEST], streams=1, most=0) == [0]
    assert allot([], [], streams=0, most=32) == []

"""JSON in pieces: the same text as at once, and no piece that takes long."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import json_text
from domain.json_text import LARGE, has_long_number, in_pieces, is_large

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner, max_size=5),
    max_leaves=20,
)
WORDS = {"segments": [{"word": f"w{n}", "start": n / 8, "end": None} for n in range(200_000)]}
DEEP: Any = "x" * 20
for _ in range(60):
    DEEP = [DEEP, {"b": list(range(500)), "a": None}]


def encoder(sort_keys: bool) -> json_text.Encode:
    return json.JSONEncoder(sort_keys=sort_keys, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


@pytest.mark.parametrize("sort_keys", [False, True])
@given(value=VALUES)
def test_the_pieces_are_the_text(value: Any, sort_keys: bool) -> None:
    encode = encoder(sort_keys)
    assert "".join(in_pieces(value, encode, sort_keys=sort_keys, piece=16)) == encode(value)


@pytest.mark.parametrize("value", [WORDS, DEEP, {1: WORDS["segments"][:9]}, list(range(99_999)), {"a": "x" * LARGE}])
@pytest.mark.parametrize("sort_keys", [False, True])
def test_no_piece_is_long_but_a_string(value: Any, sort_keys: bool) -> None:
    encode = encoder(sort_keys)
    pieces = list(in_pieces(value, encode, sort_keys=sort_keys))
    assert "".join(pieces) == encode(value)
    assert max(len(piece) for piece in pieces if not piece.startswith('"')) < 64 << 10


@pytest.mark.parametrize(
    ("value", "large"),
    [
        (None, False),
        ("x" * LARGE, False),
        ("x" * (LARGE + 1), True),
        (["x" * 1000] * 100, False),
        (["x" * 1000] * 300, True),
        ({"x" * (LARGE + 1): 1}, True),
        ([[[0] * 1000] * 100], True),
        (WORDS, True),
    ],
)
def test_what_is_large_is_known_by_about_its_size(value: Any, large: bool) -> None:
    assert is_large(value) is large


@pytest.mark.parametrize("at", [0, 1, LARGE - 19, LARGE - 18, LARGE - 1, LARGE, LARGE + 5, 3 * LARGE - 7])
def test_a_long_number_is_found_wherever_it_stands(at: int) -> None:
    assert has_long_number(b" " * at + b"1" * 19 + b" " * 9)
    assert not has_long_number(b" " * at + b"1" * 18 + b" " * 9)

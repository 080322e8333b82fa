"""JSON of values that may be large: how large about, and their text in pieces.

One call of an encoder keeps every other thread of the process waiting until it is done, so a large value is written in
many calls; whoever makes the pieces in a thread of its own leaves the others their turns.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

LARGE = 256 << 10
"""Bytes of JSON from which on reading and writing takes longer than handing it to a thread."""

PIECE = 16 << 10
# A number of so many digits may have more than 64 bits.
_DIGITS = 19
_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % _DIGITS)
# What a number, a comma or a pair of brackets takes, about.
_SMALL = 8

Encode = Callable[[Any], str]


def is_large(value: Any) -> bool:
    """Whether `value` takes more than LARGE bytes as JSON, about."""
    return _weight(value, LARGE) > LARGE


def has_long_number(text: bytes) -> bool:
    """Whether `text` may hold an integer of more than 64 bits, which quick readers make inexact without a word."""
    # In parts: one search keeps other threads waiting, too.
    return any(_LONG_NUMBER.search(text, at, at + LARGE + _DIGITS) for at in range(0, len(text), LARGE))


def _weight(value: Any, enough: int) -> int:
    """About how many bytes `value` takes; it is not looked at any further where they are more than `enough`."""
    if isinstance(value, str):
        return len(value)
    total, containers = 0, [value]
    while containers and total <= enough:
        container = containers.pop()
        if isinstance(container, dict):
            children: Iterable[Any] = container.values()
            total += sum(len(key) for key in container if isinstance(key, str))
        elif isinstance(container, list | tuple):
            children = container
        else:
            total += _SMALL
            continue
        for child in children:
            if isinstance(child, str):
                total += len(child)
            elif isinstance(child, dict | list | tuple):
                containers.append(child)
            total += _SMALL
            if total > enough:
                break
    return total


def in_pieces(value: Any, encode: Encode, *, sort_keys: bool = False, piece: int = PIECE) -> Iterator[str]:
    """The text that `encode` makes of `value`, without spaces; a piece is about that long, or one string or number.

    `encode` must sort keys where `sort_keys` says so.
    """
    keyed = isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if not (keyed or isinstance(value, list)) or _weight(value, piece) <= piece:
        yield encode(value)
        return
    comma = "{" if keyed else "["
    pairs = _pairs(value, sort_keys) if keyed else ((None, item) for item in value)
    for group in _groups(pairs, piece):
        if len(group) == 1:
            # Alone it may be of any size.
            [(key, item)] = group
            yield comma if key is None else f"{comma}{encode(key)}:"
            yield from in_pieces(item, encode, sort_keys=sort_keys, piece=piece)
        else:
            yield comma + encode(dict(group) if keyed else [item for _, item in group])[1:-1]
        comma = ","
    yield "}" if keyed else "]"


def _pairs(value: dict[str, Any], sort_keys: bool) -> Iterable[tuple[str, Any]]:
    return sorted(value.items(), key=lambda pair: pair[0]) if sort_keys else value.items()


def _groups(pairs: Iterable[tuple[str | None, Any]], piece: int) -> Iterator[list[tuple[str | None, Any]]]:
    """`pairs` in order, as many together as make a piece; what is more than a piece is alone."""
    group: list[tuple[str | None, Any]] = []
    held = 0
    for key, item in pairs:
        size = len(key or "") + _weight(item, piece) + _SMALL
        if group and held + size > piece:
            yield group
            group, held = [], 0
        group.append((key, item))
        held += size
    if group:
        yield group

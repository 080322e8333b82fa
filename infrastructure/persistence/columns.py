"""Columns as all tables spell them."""

from typing import Any

from sqlalchemy import BigInteger, Column, Identity, Integer, text

# SQLite numbers rows itself only where the key's type is exactly INTEGER.
SEQ = BigInteger().with_variant(Integer, "sqlite")
"""The type of such a number."""


def numbered() -> Column[int]:
    """The key `seq`, which the database counts up."""
    return Column("seq", SEQ, Identity(), primary_key=True)


def needed(name: str, kind: Any, default: str | None = None, *checks: Any) -> Column[Any]:
    """A column that is never null; `default` is SQL."""
    return Column(name, kind, *checks, nullable=False, server_default=None if default is None else text(default))

"""One statement for many rows of values: an array for each column on PostgreSQL, an array of rows in JSON on SQLite."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import ColumnClause, Connection, Row

from infrastructure.persistence.database import Spelling


class ManyRows:
    """A statement that takes its values FROM {given}, `fields` being name → PostgreSQL's type; it `returns` columns."""

    def __init__(
        self, spelling: Spelling, statement: str, fields: Mapping[str, str], returns: Sequence[ColumnClause[Any]]
    ) -> None:
        self._fields = tuple(fields)
        self._at_once = spelling.name == "postgresql"
        names = ", ".join(fields)
        if self._at_once:
            arrays = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in fields.items())
            given = f"unnest({arrays}) AS given({names})"
        else:
            values = ", ".join(f"json_extract(value, '$[{place}]') AS {name}" for place, name in enumerate(fields))
            given = f"(SELECT {values} FROM json_each(:given)) AS given"  # noqa: S608 (names of our own)
        self._statement = spelling.sql(statement.replace("{given}", given)).columns(*returns)

    def run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> list[Row[Any]]:
        """What the statement returns for `rows`, in no order."""
        if not rows:
            return []
        if self._at_once:
            columns = {name: [row[name] for row in rows] for name in self._fields}
            return list(connection.execute(self._statement, columns).all())
        given = orjson.dumps([[row[name] for name in self._fields] for row in rows]).decode()
        return list(connection.execute(self._statement, {"given": given}).all())

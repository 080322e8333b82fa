"""What is known of files that are kept for jobs."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, select

from domain.errors import StoredFileNotFound
from domain.stored_file import AFTER_FAILURE_MS, ANYBODY, UNUSED_MS, FileUse, StoredFile
from infrastructure.persistence.database import Database
from infrastructure.persistence.rows import in_chunks
from infrastructure.persistence.tables import file_uses, files

_AT_ONCE = 500

_ADD = """
INSERT INTO files (id, owner_service, size_bytes, created_at, expires_at)
VALUES (:id, :owner, :size, now_ms(), now_ms()+:unused)
RETURNING *
"""
_USE = """
INSERT INTO file_uses (file_id, job_id)
SELECT id, :job FROM files WHERE id=:id AND owner_service IN (:anybody, :owner)
ON CONFLICT DO NOTHING
"""
# A use whose job is not there is of one that is about to be submitted, or never came; `expires_at` sees to those.
_DUE = """
DELETE FROM files WHERE id IN (SELECT id FROM files
  WHERE (expires_at <= now_ms() OR EXISTS (
      SELECT 1 FROM file_uses JOIN jobs ON jobs.id=file_uses.job_id WHERE file_uses.file_id=files.id))
    AND NOT EXISTS (
      SELECT 1 FROM file_uses JOIN jobs ON jobs.id=file_uses.job_id WHERE file_uses.file_id=files.id
        AND (jobs.status IN ('pending', 'running')
          OR (jobs.status='failed' AND jobs.finished_at > now_ms() - :after_failure)))
  ORDER BY created_at LIMIT :n SKIP_LOCKED)
RETURNING id
"""


class SqlFileRecords:
    """FileRecords in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        sql = database.spelling.sql
        self._add, self._use, self._due = sql(_ADD), sql(_USE), sql(_DUE)

    async def add(self, file_id: str, owner_service: str, size: int) -> StoredFile:
        """Note a file whose bytes are kept."""
        values = {"id": file_id, "owner": owner_service, "size": size, "unused": UNUSED_MS}
        return _file_of(await self._database.write(lambda c: c.execute(self._add, values).one()))

    async def find(self, file_id: str, owners: Collection[str] | None = None) -> StoredFile:
        """That file."""
        query = select(files).where(files.c.id == file_id)
        if owners is not None:
            query = query.where(files.c.owner_service.in_([ANYBODY, *owners]))
        row = await self._database.read(lambda c: c.execute(query).first())
        if row is None:
            raise StoredFileNotFound
        return _file_of(row)

    async def use(self, uses: Sequence[FileUse]) -> Mapping[str, int]:
        """Note that jobs use files; the sizes of those."""
        values = [
            {"id": use.file_id, "job": use.job_id, "owner": use.owner_service, "anybody": ANYBODY} for use in uses
        ]

        def write(connection: Connection) -> dict[str, int]:
            connection.execute(self._use, values)
            sizes: dict[str, int] = {}
            for some in in_chunks(uses, _AT_ONCE):
                jobs = file_uses.c.job_id.in_([use.job_id for use in some])
                query = select(files.c.id, files.c.size_bytes).join(file_uses, file_uses.c.file_id == files.c.id)
                sizes |= {row.id: row.size_bytes for row in connection.execute(query.where(jobs))}
            return sizes

        return await self._database.write(write, repeatable=True)

    async def forget(self, file_id: str) -> None:
        """That file is not kept any more."""
        query = delete(files).where(files.c.id == file_id)
        await self._database.write(lambda c: c.execute(query) and None, repeatable=True)

    async def take_due(self, limit: int) -> Sequence[str]:
        """Forget files that are due."""
        values = {"n": limit, "after_failure": AFTER_FAILURE_MS}

        def take(connection: Connection) -> list[str]:
            return list(connection.execute(self._due, values).scalars().all())

        return await self._database.write(take)

    async def known(self, file_ids: Collection[str]) -> Collection[str]:
        """Those that there are."""
        query = select(files.c.id).where(files.c.id.in_(list(file_ids)))
        return set(await self._database.read(lambda c: c.execute(query).scalars().all()))


def _file_of(row: Row[Any]) -> StoredFile:
    return StoredFile(row.id, row.owner_service, row.size_bytes, row.created_at, row.expires_at)

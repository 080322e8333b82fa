"""Files that wait for jobs: rows that tell of them, a folder that has their bytes, and when both go.

The row is the truth. A file without a row is a stray, left by a process that died between the two, and goes too.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from domain.stored_file import FileUse, StoredFile

STEP = 500
# Nobody takes as long between the last byte of a file and its row.
STRAY_SECONDS = 3600.0


class FileRecords(Protocol):
    """What is known of files that are kept. Its own clock decides when they are over.

    * A file is due once jobs used it and all of them are completed, cancelled or gone, or failed a day ago; and a day
      after it came, if no job uses it. A job that is pending or running keeps it, however long.
    * Any call raises DatabaseUnavailable, DatabaseBusy or StorageFull.
    """

    async def add(self, file_id: str, owner_service: str, size: int) -> StoredFile:
        """Note a file whose bytes are kept."""
        ...

    async def find(self, file_id: str, owners: Collection[str] | None = None) -> StoredFile:
        """That file, if one of `owners` may use it; None may use all. Raises StoredFileNotFound."""
        ...

    async def use(self, uses: Sequence[FileUse]) -> Mapping[str, int]:
        """Note that jobs, which need not be there yet, use files; those that there are not are passed over.

        Gives the sizes in bytes of the others, by their ids.
        """
        ...

    async def forget(self, file_id: str) -> None:
        """That file is not kept any more."""
        ...

    async def take_due(self, limit: int) -> Sequence[str]:
        """Forget files that are due; their ids. No two callers get the same."""
        ...

    async def known(self, file_ids: Collection[str]) -> Collection[str]:
        """Those of `file_ids` that there are."""
        ...


class FileFolder(Protocol):
    """Where the bytes lie, by the ids of the files. Every call blocks."""

    def check_room(self, size: int) -> None:
        """Raise InsufficientStorage where `size` bytes more would leave too little free."""
        ...

    def keep(self, content: Path, file_id: str) -> int:
        """Take over the file `content`, so that it survives a crash; its size. Raises InsufficientStorage."""
        ...

    def path_of(self, file_id: str) -> Path:
        """Where it lies. Raises StoredFileMissing where it does not."""
        ...

    def remove(self, file_ids: Collection[str]) -> None:
        """Remove those that are here."""
        ...

    def untouched(self, seconds: float) -> Sequence[str]:
        """The ids of all that nobody has written to for so long."""
        ...


class StoredFiles:
    """Keeps files until the jobs that use them are over."""

    def __init__(self, records: FileRecords, folder: FileFolder) -> None:
        self._records = records
        self._folder = folder

    async def check_room(self, size: int = 0) -> None:
        """Raise InsufficientStorage where there is no room for `size` bytes."""
        await asyncio.to_thread(self._folder.check_room, size)

    async def keep(self, content: Path, owner_service: str) -> StoredFile:
        """Take over the file `content`. Once this returns it survives a crash; where it raises nothing is kept."""
        file_id = str(uuid4())
        moving = asyncio.ensure_future(asyncio.to_thread(self._folder.keep, content, file_id))
        try:
            size = await asyncio.shield(moving)
            return await self._records.add(file_id, owner_service, size)
        except BaseException:
            # A thread goes on when whoever waits for it is cancelled.
            await asyncio.gather(moving, return_exceptions=True)
            await asyncio.to_thread(self._folder.remove, [file_id])
            raise

    async def find(self, file_id: str, owners: Collection[str] | None = None) -> StoredFile:
        """That file. Raises StoredFileNotFound where it is gone, or somebody else's."""
        return await self._records.find(file_id, owners)

    async def path_of(self, file: StoredFile) -> Path:
        """Where its bytes lie, for reading only. Raises StoredFileMissing."""
        return await asyncio.to_thread(self._folder.path_of, file.id)

    async def discard(self, file: StoredFile) -> None:
        """Remove a file that nothing came of."""
        await self._records.forget(file.id)
        await asyncio.to_thread(self._folder.remove, [file.id])

    async def use(self, uses: Sequence[FileUse]) -> Mapping[str, int]:
        """Keep files for jobs that are about to be submitted; the sizes in bytes of those that are here."""
        return await self._records.use(uses) if uses else {}

    async def sweep(self) -> int:
        """Remove what is due; how many files that were."""
        count = 0
        while due := await self._records.take_due(STEP):
            await asyncio.to_thread(self._folder.remove, due)
            count += len(due)
        return count

    async def sweep_strays(self) -> int:
        """Remove what no row tells of; how many files that were."""
        count = 0
        there = await asyncio.to_thread(self._folder.untouched, STRAY_SECONDS)
        for start in range(0, len(there), STEP):
            some = there[start : start + STEP]
            strays = set(some) - set(await self._records.known(some))
            await asyncio.to_thread(self._folder.remove, strays)
            count += len(strays)
        return count

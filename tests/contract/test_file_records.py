"""What every FileRecords promises: files in memory, in SQLite and in PostgreSQL come and go alike."""

from collections.abc import Collection
from uuid import uuid4

import pytest

from application.stored_files import FileRecords
from domain.errors import StoredFileNotFound
from domain.job_repository import Cancel, Claim, Complete, Delete, Fail, Retry, Settlement
from domain.new_job import DAY_MS
from domain.stored_file import ANYBODY, FileUse, StoredFile
from infrastructure.persistence.files import SqlFileRecords
from infrastructure.persistence.schema import is_current, migrate
from tests.contract.conftest import Keeper, new_job
from tests.databases import EPOCH_MS
from tests.fakes.files import InMemoryFileRecords
from tests.fakes.jobs import InMemoryJobRepository

DONE = Complete({"text": "ok"}, "a" * 64)


@pytest.fixture
def records(keeper: Keeper) -> FileRecords:
    if isinstance(keeper.jobs, InMemoryJobRepository):
        return InMemoryFileRecords(keeper.jobs)
    assert keeper.kept is not None
    return SqlFileRecords(keeper.kept.database)


async def added(records: FileRecords, owner: str = ANYBODY) -> StoredFile:
    return await records.add(str(uuid4()), owner, 42)


async def used(keeper: Keeper, records: FileRecords, *files: StoredFile, owner: str = "telephony") -> str:
    """A new job that uses these files."""
    job = new_job(owner)
    await records.use([FileUse(file.id, job.id, owner) for file in files])
    await keeper.jobs.add([job])
    return job.id


async def ended(keeper: Keeper, report: Complete | Fail) -> None:
    """The next job runs and ends so."""
    [job] = await keeper.jobs.claim(Claim("w", 1))
    await keeper.jobs.settle(Settlement(job.id, report, job.lease_token))


async def remain(records: FileRecords, *files: StoredFile) -> Collection[str]:
    """Take what is due; the ids of those among `files` that are still there."""
    taken = set(await records.take_due(100))
    there = set(await records.known([file.id for file in files]))
    assert there == {file.id for file in files} - taken
    return there


async def test_a_file_is_found_by_its_owner_and_by_whoever_sees_all(records: FileRecords) -> None:
    mine, everybodys = await added(records, "telephony"), await added(records)
    assert (mine.size, mine.created_at, mine.expires_at) == (42, EPOCH_MS, EPOCH_MS + DAY_MS)
    assert await records.find(mine.id) == await records.find(mine.id, ["telephony"]) == mine
    assert await records.find(everybodys.id, ["billing"]) == everybodys
    for file_id, owners in ((mine.id, ["billing"]), (mine.id, []), (str(uuid4()), None)):
        with pytest.raises(StoredFileNotFound):
            await records.find(file_id, owners)


async def test_a_file_that_no_job_uses_goes_after_a_day(keeper: Keeper, records: FileRecords) -> None:
    file = await added(records)
    # A submission that came to nothing is no use.
    await records.use([FileUse(file.id, str(uuid4()), "telephony")])
    await keeper.advance(DAY_MS - 1)
    assert await remain(records, file)
    await keeper.advance(1)
    assert not await remain(records, file)
    with pytest.raises(StoredFileNotFound):
        await records.find(file.id)


async def test_a_job_that_waits_or_runs_keeps_its_file_however_long(keeper: Keeper, records: FileRecords) -> None:
    file = await added(records)
    await used(keeper, records, file)
    await keeper.advance(3 * DAY_MS)
    assert await remain(records, file)
    [job] = await keeper.jobs.claim(Claim("w", 1))
    assert await remain(records, file)
    await keeper.jobs.settle(Settlement(job.id, DONE, job.lease_token))
    assert not await remain(records, file)


async def test_a_file_goes_with_the_cancel_of_its_job(keeper: Keeper, records: FileRecords) -> None:
    file, other = await added(records), await added(records)
    job_id = await used(keeper, records, file)
    await used(keeper, records, other)
    await keeper.jobs.change(Cancel("me"), [job_id])
    assert await remain(records, file, other) == {other.id}


async def test_the_file_of_a_failed_job_stays_a_day_for_a_retry(keeper: Keeper, records: FileRecords) -> None:
    file = await added(records)
    job_id = await used(keeper, records, file)
    await keeper.advance(DAY_MS)
    await ended(keeper, Fail("bad_audio"))
    await keeper.advance(DAY_MS - 1)
    assert await remain(records, file)
    await keeper.jobs.change(Retry("me"), [job_id])
    await keeper.advance(DAY_MS)
    assert await remain(records, file)
    await ended(keeper, Fail("bad_audio"))
    await keeper.advance(DAY_MS)
    assert not await remain(records, file)


async def test_a_file_of_several_jobs_stays_until_the_last_is_over(keeper: Keeper, records: FileRecords) -> None:
    file, other = await added(records), await added(records)
    for _ in range(2):
        await used(keeper, records, file, other)
    await ended(keeper, DONE)
    assert await remain(records, file, other) == {file.id, other.id}
    await ended(keeper, DONE)
    assert not await remain(records, file, other)


async def test_a_file_goes_with_a_job_that_is_removed(keeper: Keeper, records: FileRecords) -> None:
    file = await added(records)
    job_id = await used(keeper, records, file)
    await ended(keeper, DONE)
    await keeper.jobs.change(Delete("me"), [job_id])
    assert not await remain(records, file)


async def test_the_job_of_somebody_else_neither_keeps_a_file_nor_ends_it(keeper: Keeper, records: FileRecords) -> None:
    file = await added(records, "telephony")
    await used(keeper, records, file, owner="billing")
    await ended(keeper, DONE)
    assert await remain(records, file)
    await used(keeper, records, file, owner="billing")
    await keeper.advance(DAY_MS)
    assert not await remain(records, file)


async def test_files_that_are_not_there_are_passed_over(keeper: Keeper, records: FileRecords) -> None:
    file = await added(records)
    gone = StoredFile(str(uuid4()), ANYBODY, 1, 0, 0)
    await used(keeper, records, gone, file, file)
    assert await records.known([gone.id, file.id]) == {file.id}


async def test_a_file_may_be_forgotten_and_its_uses_with_it(keeper: Keeper, records: FileRecords) -> None:
    file, other = await added(records), await added(records)
    await used(keeper, records, file, other)
    for _ in range(2):
        await records.forget(file.id)
    assert set(await records.known([file.id, other.id])) == {other.id}
    assert await remain(records, other)


async def test_no_more_than_asked_for_are_taken_and_none_twice(keeper: Keeper, records: FileRecords) -> None:
    ids = {(await added(records)).id for _ in range(5)}
    await keeper.advance(DAY_MS)
    first, second = await records.take_due(3), await records.take_due(3)
    assert (len(first), len(second), set(first) | set(second)) == (3, 2, ids)
    assert await records.take_due(3) == []


async def test_a_database_of_the_version_before_gets_the_tables(database_keeper: Keeper) -> None:
    kept = database_keeper.kept
    assert kept is not None
    job = new_job()
    await kept.jobs.add([job])
    for statement in ("DROP TABLE file_uses", "DROP TABLE files", "UPDATE alembic_version SET version_num='0001'"):
        await kept.run(statement)
    assert not await is_current(kept.database)
    await migrate(kept.database)
    assert await is_current(kept.database)
    records = SqlFileRecords(kept.database)
    file = await added(records)
    await records.use([FileUse(file.id, job.id, "telephony")])
    assert await remain(records, file)

"""Files for jobs on a real disk: what is kept, what is refused, what goes."""

import asyncio
import os
import shutil
import tempfile
from pathlib import Path
from uuid import uuid4

import pytest

from application.stored_files import STRAY_SECONDS, StoredFiles
from domain.errors import DatabaseUnavailable, InsufficientStorage, StoredFileMissing, StoredFileNotFound
from domain.new_job import DAY_MS
from domain.stored_file import ANYBODY, StoredFile, file_id_of
from infrastructure.file_folder import PrivateFolder
from tests.fakes.clock import EPOCH
from tests.fakes.files import InMemoryFileRecords
from tests.fakes.jobs import InMemoryJobRepository

SOUND = b"sound" * 100


class RecordsThatMayBeAway(InMemoryFileRecords):
    """Records whose database goes away when a test says so."""

    is_away = False

    async def add(self, file_id: str, owner_service: str, size: int) -> StoredFile:
        """Note a file, if that can be."""
        if self.is_away:
            raise DatabaseUnavailable
        return await super().add(file_id, owner_service, size)


class Store:
    """Files, what is behind them, and uploads to keep."""

    def __init__(self, tmp_path: Path, min_free_bytes: int = 0) -> None:
        self._tmp = tmp_path
        self.now = int(EPOCH * 1000)
        self.root = tmp_path / "data" / "files"
        self.records = RecordsThatMayBeAway(InMemoryJobRepository(lambda: self.now))
        self.files = StoredFiles(self.records, PrivateFolder(self.root, min_free_bytes=min_free_bytes))

    def upload(self) -> Path:
        path = self._tmp / uuid4().hex
        path.touch(0o600)
        path.write_bytes(SOUND)
        return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


async def test_a_file_is_moved_into_a_folder_that_only_we_can_read(store: Store) -> None:
    upload = store.upload()
    file = await store.files.keep(upload, ANYBODY)
    path = await store.files.path_of(file)
    assert not upload.exists()
    assert (path.read_bytes(), file.size, file.token) == (SOUND, len(SOUND), f"files/{file.id}")
    assert (path.stat().st_mode & 0o777, store.root.stat().st_mode & 0o777) == (0o600, 0o700)
    assert await store.files.find(file_id_of(file.token)) == file


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no other disk")
async def test_a_file_is_copied_from_another_disk(store: Store) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        file = await store.files.keep(Path(shutil.copy(store.upload(), folder)), ANYBODY)
        path = await store.files.path_of(file)
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (SOUND, 0o600)


async def test_where_the_row_cannot_be_written_nothing_is_kept(store: Store) -> None:
    store.records.is_away = True
    with pytest.raises(DatabaseUnavailable):
        await store.files.keep(store.upload(), ANYBODY)
    assert list(store.root.iterdir()) == []


async def test_the_floor_of_the_disk_is_kept_free(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    await Store(tmp_path, min_free_bytes=free // 2).files.check_room(1)
    for floor, size in ((2 * free, 0), (free // 2, free)):
        with pytest.raises(InsufficientStorage, match="stay free"):
            await Store(tmp_path, min_free_bytes=floor).files.check_room(size)


@pytest.mark.parametrize(
    "token",
    ["", "files/", "/etc/passwd", "files/../x", "%2e%2e", "files/\0", "files/files/x", f"files/{str(uuid4()).upper()}"],
)
def test_only_a_token_is_a_token(token: str) -> None:
    with pytest.raises(StoredFileNotFound):
        file_id_of(token)


async def test_what_is_no_plain_file_is_not_opened(store: Store, tmp_path: Path) -> None:
    file = await store.files.keep(store.upload(), ANYBODY)
    path = await store.files.path_of(file)
    path.unlink()
    with pytest.raises(StoredFileMissing):
        await store.files.path_of(file)
    path.symlink_to(tmp_path / "secret")
    (tmp_path / "secret").write_text("s3cret")
    with pytest.raises(StoredFileMissing):
        await store.files.path_of(file)


async def test_what_is_due_goes_with_its_bytes(store: Store) -> None:
    files = [await store.files.keep(store.upload(), ANYBODY) for _ in range(3)]
    assert await store.files.sweep() == 0
    store.now += DAY_MS
    late = await store.files.keep(store.upload(), ANYBODY)
    assert await store.files.sweep() == len(files)
    assert [path.name for path in store.root.iterdir()] == [late.id]


async def test_what_no_row_tells_of_goes_when_it_is_old(store: Store) -> None:
    assert await store.files.sweep_strays() == 0
    kept = await store.files.keep(store.upload(), ANYBODY)
    stray, fresh = store.root / str(uuid4()), store.root / str(uuid4())
    for path in (stray, fresh):
        path.write_bytes(SOUND)
    long_ago = path.stat().st_mtime - STRAY_SECONDS - 1
    for path in (stray, store.root / kept.id):
        os.utime(path, (long_ago, long_ago))
    assert await store.files.sweep_strays() == 1
    assert {path.name for path in store.root.iterdir()} == {kept.id, fresh.name}


async def test_an_upload_that_is_given_up_leaves_nothing(store: Store) -> None:
    keeping = asyncio.create_task(store.files.keep(store.upload(), ANYBODY))
    await asyncio.sleep(0)
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    assert store.records.files == {}
    assert not store.root.exists() or list(store.root.iterdir()) == []

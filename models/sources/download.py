"""One resource over HTTP into a file: continued where it stopped, hashed while it comes, bounded."""

import hashlib
import os
import re
from pathlib import Path

import httpx2

from models.sources.http import HttpClient, Stalled, Unreachable
from models.sources.source import Cancellation, Resource, Transfer, WrongBytes

_BLOCK = 1 << 20
_PROGRESS_WORTH_COUNTING = 1 << 20
_MAX_REQUESTS = 100
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19}|\*)")


def download(client: HttpClient, resource: Resource, target: Path, transfer: Transfer) -> None:
    """Bring `resource` to `target`. Raises MirrorFailed, RequestCancelled, OSError of the disk.

    A connection that breaks is tried again from where it broke; progress in between resets the count of
    failures. One that stalls without having brought anything is given up at once. Bytes that turn out wrong
    after a continued download are fetched anew once, since the part that lay here may be what was wrong.
    """
    if not resource.is_promised:
        target.unlink(missing_ok=True)
    target.touch()
    failures = 0
    anew = False
    for _ in range(_MAX_REQUESTS):
        before = _size(target)
        try:
            _receive(client, resource, target, transfer)
            return
        except Unreachable as error:
            came_on = _size(target) - before > _PROGRESS_WORTH_COUNTING
            failures = 1 if came_on else failures + 1
            if failures >= client.patience.attempts or (isinstance(error, Stalled) and not came_on):
                raise
            client.pause(failures, transfer.cancellation)
        except WrongBytes:
            if before == 0 or anew:
                target.unlink(missing_ok=True)
                raise
            os.truncate(target, 0)
            anew = True
    raise Unreachable(f"{client.host} broke the connection {_MAX_REQUESTS} times")


def _receive(client: HttpClient, resource: Resource, target: Path, transfer: Transfer) -> None:
    """One request for what is missing of `resource`, then the check of the whole."""
    have = _size(target)
    if have > resource.size:
        os.truncate(target, 0)
        have = 0
    check = _Check(resource)
    if have:
        check.read(target, transfer.cancellation)
    transfer.received(have)
    if have < resource.size:
        headers = {"Range": f"bytes={have}-"} if have else {}
        with client.open(resource.location, headers, transfer.cancellation) as response:
            have = _start(response, resource, have, target)
            if have == 0:
                check = _Check(resource)
            _append(client, response, resource, target, have, check, transfer)
    if (have := _size(target)) < resource.size:
        raise Unreachable(f"the connection closed after {have} of {resource.size} bytes")
    check.finish()


def _start(response: httpx2.Response, resource: Resource, have: int, target: Path) -> int:
    """From which byte on the answer is: `have`, or 0 where the server does not continue downloads."""
    if response.status_code == 206:
        given = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if given and int(given[1]) == have and given[2] in ("*", str(resource.size)):
            return have
        raise WrongBytes(f"{response.url.host} continues from another place than asked, or another file")
    if response.status_code == 416:
        raise WrongBytes(f"{response.url.host} has another file than it promised")
    os.truncate(target, 0)
    length = response.headers.get("content-length")
    if length is not None and length != str(resource.size):
        raise WrongBytes(f"{response.url.host} announces {length[:20]} bytes instead of {resource.size}")
    return 0


def _append(
    client: HttpClient,
    response: httpx2.Response,
    resource: Resource,
    target: Path,
    have: int,
    check: "_Check",
    transfer: Transfer,
) -> None:
    with target.open("ab") as file:
        try:
            for chunk in client.chunks(response, resource.size - have, transfer.cancellation):
                file.write(chunk)
                check.update(chunk)
                have += len(chunk)
                transfer.received(have)
        finally:
            file.flush()
        os.fsync(file.fileno())


class _Check:
    """The hash that was promised, fed piece by piece."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        if resource.sha256 is None and resource.git_sha1 is not None:
            self._hash = hashlib.sha1(b"blob %d\0" % resource.size, usedforsecurity=False)
        else:
            self._hash = hashlib.sha256()

    def read(self, path: Path, cancellation: Cancellation) -> None:
        """Feed what lies at `path`."""
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                cancellation.check()
                self._hash.update(block)

    def update(self, block: bytes) -> None:
        """Feed `block`."""
        self._hash.update(block)

    def finish(self) -> None:
        """Raise WrongBytes where a hash was promised and the bytes have another."""
        promised = self._resource.sha256 or self._resource.git_sha1
        if promised is not None and self._hash.hexdigest() != promised:
            raise WrongBytes(f"the bytes have the hash {self._hash.hexdigest()[:12]} instead of {promised[:12]}")


def _size(path: Path) -> int:
    return path.stat().st_size

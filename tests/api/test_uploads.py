"""Uploads: counted, streamed to disk, and gone afterwards, whatever the form looks like."""
# ruff: noqa: N802 (ids of attacks stand in the names of their tests)

from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.errors import InvalidBody, InvalidFields, PayloadTooLarge
from api.multipart import FormReader
from api.services import MIB, Limits
from api.uploads import UploadFolder
from tests.api.world import SPEECH, World, in_process

NAMES = ("file", "audio")
KIB = 1 << 10


def part(name: str, content: bytes, extra: str = "") -> bytes:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + content + b"\r\n"


def read(body: bytes, piece: int = 1 << 20) -> tuple[FormReader, bytes]:
    taken = bytearray()
    form = FormReader("multipart/form-data; boundary=b", NAMES, lambda _: taken.extend)
    for start in range(0, len(body), piece):
        form.feed(body[start : start + piece])
    form.finish()
    return form, bytes(taken)


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64, 1 << 20])
def test_a_form_reads_the_same_in_pieces_of_any_size(piece: int) -> None:
    content = b"sound\r\n--\r\n-b\r\n--a b\r--b\n--b" * 20
    body = (
        b"preamble\r\n"
        + part("language", "português".encode())
        + part("file", content, '; filename="a\\"b.wav"')
        + part("notes", b"x" * 100, '; filename="notes.txt"')
        + part("language", b"")
        + b"--b--\r\nepilogue"
    )
    form, taken = read(body[len(b"preamble\r\n") :], piece)
    assert taken == content
    assert form.files == 1
    assert form.fields == [("language", "português"), ("language", "")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b--\r\n"[:4],
        b"no form at all",
        part("file", b"x"),
        part("file", b"x") + b"--b",
        b'--b\r\nContent-Disposition: form-data; name="file"',
        b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: attachment; name="file"\r\n\r\nx\r\n--b--\r\n',
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\n" + b"X: y\r\n" * 50 + b"\r\nx\r\n--b--\r\n",
        b"--b\r\nX: " + b"y" * 10_000 + b"\r\n\r\nx\r\n--b--\r\n",
        part("language", b"\xff") + b"--b--\r\n",
        part("language", b"x").replace(b"language", b"\xff") + b"--b--\r\n",
    ],
)
def test_a_broken_form_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidBody):
        read(body)


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "x" * 500],
)
def test_a_form_needs_a_boundary(content_type: str) -> None:
    with pytest.raises(InvalidBody):
        FormReader(content_type, NAMES, lambda _: bytearray().extend)


def test_a_form_has_at_most_64_parts_and_one_file() -> None:
    read(part("x", b"") * 63 + part("file", b"a") + b"--b--\r\n")
    with pytest.raises(InvalidFields, match="at most 64"):
        read(part("x", b"") * 65 + b"--b--\r\n")
    with pytest.raises(InvalidFields, match="more than one file"):
        read(part("file", b"a") + part("audio", b"b") + b"--b--\r\n")
    with pytest.raises(PayloadTooLarge):
        read(part("x", b"y" * (65 * KIB)) + b"--b--\r\n")


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        ({"data": {"language": "en"}}, 415, "unsupported_media_type"),
        ({"json": {"file": "x"}}, 415, "unsupported_media_type"),
        ({"content": b"RIFF"}, 415, "unsupported_media_type"),
        ({"content": b"RIFF", "headers": {"content-type": "text/plain"}}, 415, "unsupported_media_type"),
        (
            {"content": b"RIFF", "headers": {"content-type": "multipart/mixed; boundary=b"}},
            415,
            "unsupported_media_type",
        ),
        ({"content": b"RIFF", "headers": {"content-type": "multipart/form-data"}}, 400, "invalid_body"),
        ({"content": b"RIFF", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 400, "invalid_body"),
        ({"files": {"sound": b"RIFF"}}, 422, "validation_error"),
        ({"files": [("file", b"a"), ("file", b"b")]}, 422, "validation_error"),
        ({"files": [("file", b"a"), ("audio", b"b")]}, 422, "validation_error"),
        ({"files": {"file": b"a"}, "data": {f"x{n}": "y" for n in range(64)}}, 422, "validation_error"),
    ],
)
async def test_what_is_no_upload_is_refused_and_leaves_nothing(
    world: World, client: httpx2.AsyncClient, arguments: dict[str, Any], status: int, code: str
) -> None:
    response = await client.post("/transcribe", **arguments)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert world.uploads == []
    assert world.repository.loads == []


@pytest.mark.parametrize("is_form", [True, False])
@pytest.mark.parametrize("is_chunked", [True, False])
async def test_T1_one_byte_over_the_limit_is_413_and_the_limit_itself_is_not(
    world: World, is_form: bool, is_chunked: bool
) -> None:
    limit = 300 * KIB
    async with in_process(world.app(limits=Limits(upload_bytes=limit))) as client:
        for size, status in ((limit, 200), (limit + 1, 413), (limit + 3 * MIB, 413)):
            request = client.build_request(
                "POST",
                "/transcribe",
                **({"files": {"file": b"x" * size}} if is_form else {"content": b"x" * size, "headers": AUDIO}),
            )
            if is_chunked:
                content = request.read()
                headers = {k: v for k, v in request.headers.items() if k != "content-length"}
                response = await client.post("/transcribe", content=pieces(content), headers=headers)
            else:
                response = await client.send(request)
            assert response.status_code == status
            assert status == 200 or response.json()["code"] == "payload_too_large"
            assert world.uploads == []
    assert [len(one.content) for one in world.repository.speech(SPEECH).heard] == [limit]


AUDIO = {"content-type": "audio/wav"}


async def pieces(content: bytes) -> Any:
    for start in range(0, len(content), 64 * KIB):
        yield content[start : start + 64 * KIB]


async def test_a_body_without_a_length_is_counted_too(world: World, client: httpx2.AsyncClient) -> None:
    async def endless() -> Any:
        while True:
            yield b" " * 64 * KIB

    response = await client.post("/generate", content=endless())
    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")


def test_T8_what_a_killed_process_left_goes_at_the_next_start(tmp_path: Path) -> None:
    root = tmp_path / "uploads"
    left = root / "0123"
    left.mkdir(parents=True)
    (left / "input.bin").write_bytes(b"x")
    folder = UploadFolder(root)
    folder.open()
    assert [path.name for path in root.iterdir()] == [".lock"]
    mine = folder.new_file()
    other = UploadFolder(root)
    other.open()
    assert mine.path.exists()
    folder.close()
    third = UploadFolder(root)
    third.open()
    assert mine.path.exists()
    other.close()
    third.close()
    mine.add(b"abc")
    mine.flush()
    assert (mine.size, mine.path.read_bytes()) == (3, b"abc")
    mine.remove()
    assert not mine.path.parent.exists()

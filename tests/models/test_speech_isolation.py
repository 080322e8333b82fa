"""An upload that names other files or addresses: nothing else is opened, whoever decodes it.

Python's audit hooks do not see what FFmpeg opens in C, so the kernel is asked: inotify tells of every open of a
canary, and a listening socket of every connection. Each upload is decoded twice: by the real process, which could
not open anything if it wanted to, and in this process, where only the whitelists stand in the way.
"""

import ctypes
import io
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import av
import pytest

from domain.errors import AudioRefused
from models.speech.decode_child import Limits, Refused, decode
from models.speech.decoder import AUDIO_FORMATS, AudioDecoder
from tests.models.sound import wav

IN_OPEN = 0x20
Decode = Callable[[Path], Awaitable[object]]


class Watch:
    """Counts how often a file is opened by anybody."""

    def __init__(self, file: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self._descriptor, os.fsencode(file), IN_OPEN) >= 0

    def opened(self) -> bool:
        """Whether it was opened since the last call."""
        try:
            return bool(os.read(self._descriptor, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """Good audio that no upload may reach."""
    file = tmp_path / "canary.wav"
    file.write_bytes(wav(1.0))
    return file


@pytest.fixture
def watch(canary: Path) -> Iterator[Watch]:
    watch = Watch(canary)
    yield watch
    watch.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


async def decode_here(upload: Path) -> object:
    limits = Limits(AUDIO_FORMATS, 60.0, 1 << 30, 60, 1 << 30)
    with upload.open("rb") as audio, io.FileIO(os.devnull, "wb") as spool:
        try:
            return decode(audio, spool, limits)
        except Refused as refusal:
            raise AudioRefused(str(refusal)) from None


@pytest.fixture(scope="module")
def decoder() -> Iterator[AudioDecoder]:
    decoder = AudioDecoder(processes=1)
    yield decoder
    decoder.close()


@pytest.fixture(params=["process", "whitelists"])
def decode_upload(request: pytest.FixtureRequest, decoder: AudioDecoder) -> Decode:
    return decoder.decode if request.param == "process" else decode_here


SCRIPTS = {
    "ffconcat-absolute": "ffconcat version 1.0\nfile '{canary}'\n",
    "ffconcat-relative": "ffconcat version 1.0\nfile 'canary.wav'\n",
    "ffconcat-address": "ffconcat version 1.0\nfile 'http://{host}/a.wav'\n",
    "m3u8-file": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{canary}\n#EXT-X-ENDLIST\n",
    "m3u8-address": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://{host}/a.ts\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "mpd": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static' "
    "mediaPresentationDuration='PT1S'><Period><AdaptationSet mimeType='audio/mp4'><Representation id='1' bandwidth='1'><BaseURL>http://{host}/a.mp4"
    "</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "http-address": "http://{host}/a.wav",
    "file-address": "file:{canary}",
    "concat-address": "concat:{canary}|{canary}",
    "subfile-address": "subfile,,start,0,end,0,,:{canary}",
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("file_name", ["upload.bin", "upload.m3u8", "upload.wav"])
async def test_a_script_opens_no_other_file_and_no_connection(
    decode_upload: Decode, canary: Path, watch: Watch, listener: socket.socket, name: str, file_name: str
) -> None:
    host = f"127.0.0.1:{listener.getsockname()[1]}"
    upload = canary.with_name(file_name)
    upload.write_text(SCRIPTS[name].format(canary=canary, host=host))
    with pytest.raises(AudioRefused) as refusal:
        await decode_upload(upload)
    assert str(canary.parent) not in str(refusal.value)
    assert not watch.opened()
    with pytest.raises(BlockingIOError):
        listener.accept()


async def test_real_audio_under_the_name_of_a_script_is_audio(decode_upload: Decode, canary: Path) -> None:
    for name in ("upload.m3u8", "x.ffconcat", "http:"):
        upload = canary.with_name(name)
        upload.write_bytes(wav(1.0))
        assert await decode_upload(upload)


def test_the_watch_sees_what_ffmpeg_opens(canary: Path, watch: Watch) -> None:
    """Otherwise the tests above could not fail."""
    script = canary.with_name("list.ffconcat")
    script.write_text("ffconcat version 1.0\nfile 'canary.wav'\n")
    assert not watch.opened()
    with av.open(script) as container:
        assert container.streams.audio
    assert watch.opened()


def a_network_can_be_left() -> bool:
    program = "import ctypes; u = ctypes.CDLL(None).unshare; exit(u(0x40000000) != 0 and u(0x50000000) != 0)"
    return subprocess.run([sys.executable, "-I", "-c", program], check=False).returncode == 0


def network_of(process: int) -> Path:
    return Path(f"/proc/{process}/ns/net").readlink()


@pytest.mark.skipif(not a_network_can_be_left(), reason="this system lets no process have a network of its own")
async def test_the_process_sits_in_a_network_of_its_own(decoder: AudioDecoder, canary: Path) -> None:
    await decoder.decode(canary)
    child = decoder._idle[0]._process.pid
    assert network_of(child) != network_of(os.getpid())

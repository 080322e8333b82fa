"""Uploads of every kind through the real decode process. No weights are needed."""

import asyncio
import os
import signal
import sys
import wave
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from domain.errors import AudioRefused, AudioTooLong, DecodeTimeout, EmptyAudio, NoAudioTrack, RequestCancelled
from models.giving_way import PROCESS_NICENESS
from models.speech.decode_child import Limits
from models.speech.decode_process import SCRIPT, DecodeProcess, Grown
from models.speech.decoder import AudioDecoder, DecodeLimits
from models.speech.recording import Recording
from tests.models.sound import loudest_hertz, mangled, sound_file, tone, wav

Upload = Callable[[bytes], Awaitable[Recording]]


@pytest.fixture(scope="module")
def decoder() -> Iterator[AudioDecoder]:
    decoder = AudioDecoder(processes=1)
    yield decoder
    decoder.close()


@pytest.fixture
def upload(decoder: AudioDecoder, tmp_path: Path) -> Upload:
    """Decode these bytes as an upload."""

    async def send(data: bytes) -> Recording:
        file = tmp_path / "input.bin"
        file.write_bytes(data)
        return await decoder.decode(file)

    return send


def child_of(decoder: AudioDecoder) -> psutil.Process:
    """The one decode process that waits for work."""
    idle = [process for process in decoder._idle if process.is_alive()]
    assert len(idle) == 1
    return psutil.Process(idle[0]._process.pid)


async def taken(decoder: AudioDecoder) -> None:
    """Until its one process has been given an upload."""
    while decoder._idle:  # noqa: ASYNC110 -- a thread takes it, which tells nobody
        await asyncio.sleep(0)


def limits_of(process: psutil.Process) -> dict[str, str]:
    """The soft limits that the kernel holds it to, by name."""
    lines = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
    return {line[:26].strip(): line[26:].split()[0] for line in lines}


# -- what is read -------------------------------------------------------------------------------------


async def test_a_16_khz_wav_comes_through_bit_for_bit(decoder: AudioDecoder, audio_dir: Path) -> None:
    recording = await decoder.decode(audio_dir / "jfk.wav")
    with wave.open(str(audio_dir / "jfk.wav")) as reference:
        expected = np.frombuffer(reference.readframes(reference.getnframes()), np.int16)
    assert recording.seconds == 11.0
    assert recording.caveats == ()
    assert np.array_equal(recording.samples, expected)


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("wav", "pcm_s16le"), ("wav", "pcm_f32le"), ("mp3", "libmp3lame"), ("flac", "flac"), ("ogg", "libopus"),
        ("mp4", "aac"), ("ipod", "aac"), ("matroska", "libopus"), ("webm", "libopus"), ("adts", "aac"),
        ("aiff", "pcm_s16be"), ("caf", "pcm_s16be"), ("mpegts", "aac"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["mono", "stereo"])
async def test_every_container_gives_its_sound_at_16_khz(
    upload: Upload, container: str, codec: str, layout: str
) -> None:
    recording = await upload(sound_file(container, codec, [tone(2.0)], layout=layout))
    assert recording.seconds == pytest.approx(2.0, abs=0.1)
    assert loudest_hertz(recording.samples) == pytest.approx(440, abs=2)
    assert recording.caveats == ()


async def test_of_several_tracks_the_first_sound_track_is_taken(upload: Upload) -> None:
    recording = await upload(sound_file("matroska", "flac", [tone(1.0, hertz=300), tone(2.0, hertz=900)], video=True))
    assert recording.seconds == pytest.approx(1.0, abs=0.05)
    assert loudest_hertz(recording.samples) == pytest.approx(300, abs=2)


async def test_a_wav_that_was_written_into_a_pipe_is_whole(upload: Upload) -> None:
    for unknown in (0, 0x7FFF_FFF0, 0xFFFF_FFFF):
        recording = await upload(wav(1.0, data_size=unknown))
        assert (recording.seconds, recording.caveats) == (1.0, ())


# -- what is read in part -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "codec"),
    [("wav", "pcm_s16le"), ("aiff", "pcm_s16be"), ("mp3", "libmp3lame"), ("flac", "flac"), ("matroska", "libopus")],
)
async def test_a_file_that_breaks_off_gives_what_there_is_and_says_so(
    upload: Upload, container: str, codec: str
) -> None:
    whole = sound_file(container, codec, [tone(4.0)])
    recording = await upload(whole[: len(whole) // 2])
    assert 1.5 < recording.seconds < 2.5
    assert [caveat.code for caveat in recording.caveats] == ["audio_truncated"]


@pytest.mark.parametrize(("container", "codec"), [("mp3", "libmp3lame"), ("mp4", "aac"), ("adts", "aac")])
async def test_a_file_with_a_bad_stretch_gives_the_rest_and_says_so(upload: Upload, container: str, codec: str) -> None:
    recording = await upload(mangled(sound_file(container, codec, [tone(6.0)]), 0.4, 0.1))
    assert 4.0 < recording.seconds <= 6.1
    assert [caveat.code for caveat in recording.caveats] == ["audio_damaged"]


# -- what is refused ----------------------------------------------------------------------------------

NOT_AUDIO = {
    "text": b"And so, my fellow Americans\n" * 40,
    "html": b"<!doctype html><html><body>404</body></html>",
    "json": b'{"audio": null}',
    "zip": b"PK\x03\x04" + bytes(range(256)) * 8,
    "random": np.random.default_rng(7).bytes(200_000),
    "header-cut-off": wav(1.0)[:20],
    "mp4-without-index": sound_file("mp4", "aac", [tone(2.0)])[:-1500],
    "codec-not-listed": sound_file("avi", "libmp3lame", [tone(1.0)]),
    "rate-too-high": wav(1.0, rate=352_800),
    "nine-channels": wav(1.0, channels=9),
    "ffconcat": b"ffconcat version 1.0\nfile 'other.wav'\n",
    "m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.wav\n#EXT-X-ENDLIST\n",
    "mpd": b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'></MPD>",
    "concat-address": b"concat:other.wav|other.wav",
}


@pytest.mark.parametrize("name", NOT_AUDIO)
async def test_what_is_not_audio_is_refused_without_a_path_in_the_message(
    upload: Upload, tmp_path: Path, name: str
) -> None:
    with pytest.raises(AudioRefused) as refusal:
        await upload(NOT_AUDIO[name])
    assert type(refusal.value) is AudioRefused
    assert not any(leak in str(refusal.value) for leak in (str(tmp_path), "/", "Errno", "input.bin"))


@pytest.mark.parametrize("data", [b"", wav(0.0), wav(0.01)], ids=["no-bytes", "no-samples", "10-ms"])
async def test_an_upload_without_sound_is_empty_audio(upload: Upload, data: bytes) -> None:
    with pytest.raises(EmptyAudio):
        await upload(data)


async def test_twenty_milliseconds_are_sound(upload: Upload) -> None:
    assert (await upload(wav(0.02))).seconds == 0.02


async def test_a_video_without_sound_has_no_audio_track(upload: Upload) -> None:
    with pytest.raises(NoAudioTrack):
        await upload(sound_file("mp4", "aac", video=True))


async def test_what_is_not_a_regular_file_is_refused_without_waiting(decoder: AudioDecoder, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing", "."):
        with pytest.raises(AudioRefused) as refusal:
            await decoder.decode(tmp_path / name)
        assert str(tmp_path.parent) not in str(refusal.value)


# -- limits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "data"),
    [
        pytest.param(DecodeLimits(max_seconds=3), sound_file("flac", "flac", [tone(5.0)]), id="stated"),
        pytest.param(DecodeLimits(max_seconds=60), sound_file("ogg", "libopus", [tone(90.0) * 0]), id="counted"),
        pytest.param(DecodeLimits(max_raw_bytes=100_000), sound_file("mp3", "libmp3lame", [tone(5.0)]), id="raw-bytes"),
    ],
)
async def test_audio_beyond_a_limit_is_too_long(tmp_path: Path, limits: DecodeLimits, data: bytes) -> None:
    decoder = AudioDecoder(limits, processes=1)
    (tmp_path / "input.bin").write_bytes(data)
    with pytest.raises(AudioTooLong):
        await decoder.decode(tmp_path / "input.bin")
    decoder.close()


async def test_decoding_that_takes_too_long_is_stopped_and_the_next_upload_is_served(tmp_path: Path) -> None:
    decoder = AudioDecoder(DecodeLimits(timeout_seconds=0.3), processes=1)
    (tmp_path / "good").write_bytes(wav(1.0))
    await decoder.decode(tmp_path / "good")
    child = child_of(decoder)
    child.send_signal(signal.SIGSTOP)
    with pytest.raises(DecodeTimeout):
        await decoder.decode(tmp_path / "good")
    assert not child.is_running()
    assert (await decoder.decode(tmp_path / "good")).seconds == 1.0
    decoder.close()


async def test_the_process_has_no_environment_no_network_and_little_memory(
    decoder: AudioDecoder, upload: Upload
) -> None:
    await upload(wav(1.0))
    child = child_of(decoder)
    limits = limits_of(child)
    assert limits["Max address space"] == str(1 << 30)
    assert limits["Max core file size"] == "0"
    # Its own three (standard input, output, error) and the two of a request.
    assert limits["Max open files"] == "5"
    assert child.num_fds() == 3
    assert child.environ() == {}
    assert child.cwd() == "/"
    assert int(limits["Max cpu time"]) < 200


# -- crashes, cancellation, leftovers -----------------------------------------------------------------


async def test_a_crash_spoils_its_own_upload_only(decoder: AudioDecoder, upload: Upload) -> None:
    await upload(wav(1.0))
    child = child_of(decoder)
    child.send_signal(signal.SIGSTOP)
    doomed = asyncio.ensure_future(upload(wav(1.0)))
    await taken(decoder)
    child.send_signal(signal.SIGSEGV)
    child.send_signal(signal.SIGCONT)
    with pytest.raises(AudioRefused):
        await doomed
    assert (await upload(wav(1.0))).seconds == 1.0
    assert child_of(decoder).pid != child.pid


async def test_a_process_that_died_between_two_uploads_is_replaced_unnoticed(
    decoder: AudioDecoder, upload: Upload
) -> None:
    await upload(wav(1.0))
    child = child_of(decoder)
    child.kill()
    psutil.wait_procs([child])
    assert (await upload(wav(1.0))).seconds == 1.0


async def test_a_process_is_replaced_after_its_share_of_files(tmp_path: Path) -> None:
    decoder = AudioDecoder(DecodeLimits(files_per_process=2), processes=1)
    (tmp_path / "good").write_bytes(wav(0.1))
    await decoder.decode(tmp_path / "good")
    first = child_of(decoder)
    await decoder.decode(tmp_path / "good")
    assert not first.is_running()
    await decoder.decode(tmp_path / "good")
    assert child_of(decoder).pid != first.pid
    decoder.close()


@pytest.mark.skipif(sys.platform != "linux", reason="niceness of another process is Linux's")
async def test_after_a_minute_of_sound_decoding_gives_way_and_the_next_upload_finds_another_process(
    tmp_path: Path,
) -> None:
    decoder = AudioDecoder(processes=1)
    (tmp_path / "short").write_bytes(wav(59.0))
    (tmp_path / "long").write_bytes(wav(90.0))
    await decoder.decode(tmp_path / "short")
    first = child_of(decoder)
    assert first.nice() == psutil.Process().nice()
    process = decoder._idle[0]
    assert (await decoder.decode(tmp_path / "long")).seconds == 90.0
    assert process.gave_way
    # Behind the decoding and what it leaves to be done.
    for _ in range(2):
        await asyncio.wrap_future(decoder._threads.submit(lambda: None))
    assert child_of(decoder).pid != first.pid
    decoder.close()
    assert decoder._idle == []


@pytest.mark.skipif(sys.platform != "linux", reason="niceness of another process is Linux's")
def test_a_process_that_gives_way_is_told_to_the_system(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(wav(90.0))
    process = DecodeProcess(Limits("wav", 600.0, 1 << 30, 60, 1 << 30))
    child = psutil.Process(process._process.pid)
    heard: list[tuple[bool, int]] = []

    def tell(grown: Grown) -> None:
        heard.append((grown.samples > 60 * 16_000, child.nice()))

    with (tmp_path / "long").open("rb") as audio, (tmp_path / "spool").open("wb") as spool:
        process.decode(audio.fileno(), spool.fileno(), 60.0, tell=tell)
    process.close()
    usual = psutil.Process().nice()
    assert set(heard) == {(False, usual), (True, max(usual, PROCESS_NICENESS))}


async def test_cancelling_ends_the_work_at_once(decoder: AudioDecoder, upload: Upload) -> None:
    await upload(wav(1.0))
    child = child_of(decoder)
    child.send_signal(signal.SIGSTOP)
    work = asyncio.ensure_future(upload(wav(1.0)))
    await taken(decoder)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    gone, _alive = psutil.wait_procs([child], timeout=1.0)
    assert gone == [child]
    assert (await upload(wav(1.0))).seconds == 1.0


async def test_closing_the_decoder_ends_who_still_waits(tmp_path: Path) -> None:
    decoder = AudioDecoder(processes=1)
    (tmp_path / "good").write_bytes(wav(1.0))
    await decoder.decode(tmp_path / "good")
    child = child_of(decoder)
    child.send_signal(signal.SIGSTOP)
    waiting = [asyncio.ensure_future(decoder.decode(tmp_path / "good")) for _ in range(2)]
    await taken(decoder)
    decoder.close()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [RequestCancelled, RequestCancelled]
    assert not child.is_running()


async def test_samples_lie_in_a_file_that_nobody_has_to_remove(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    decoder = AudioDecoder(processes=1, spool_dir=spool)
    (tmp_path / "good").write_bytes(wav(1.0))
    recording = await decoder.decode(tmp_path / "good")
    assert list(spool.iterdir()) == []
    assert loudest_hertz(recording.samples) == pytest.approx(440, abs=2)
    decoder.close()


async def test_uploads_share_the_processes_and_get_their_own_sound(tmp_path: Path) -> None:
    decoder = AudioDecoder(processes=2)
    for number in range(6):
        (tmp_path / str(number)).write_bytes(sound_file("flac", "flac", [tone(1.0, hertz=300 + 100 * number)]))
    recordings = await asyncio.gather(*(decoder.decode(tmp_path / str(number)) for number in range(6)))
    heard = [round(loudest_hertz(recording.samples), -1) for recording in recordings]
    assert heard == [300, 400, 500, 600, 700, 800]
    assert len(decoder._idle) == 2
    decoder.close()


def test_the_script_of_the_process_is_a_file_of_the_package() -> None:
    assert SCRIPT.is_file()

"""Sound files made for a test: a tone in any container that FFmpeg writes."""

import io
from collections.abc import Sequence
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream


def tone(seconds: float, rate: int = 48_000, hertz: float = 440.0) -> npt.NDArray[np.int16]:
    """A sine of a third of full scale, int16."""
    time = np.arange(int(seconds * rate)) / rate
    return (np.sin(2 * np.pi * hertz * time) * 10_000).astype(np.int16)


def loudest_hertz(samples: npt.NDArray[np.int16], rate: int = 16_000) -> float:
    """The frequency with the most energy."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


def sound_file(
    container: str,
    codec: str,
    tracks: Sequence[npt.NDArray[np.int16]] = (),
    *,
    rate: int = 48_000,
    layout: str = "mono",
    video: bool = False,
) -> bytes:
    """A file with one sound track for each of `tracks` (int16, mono) after a video track, if one is wanted."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        if video:
            picture = output.add_stream("mpeg4", rate=5)
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        streams = [cast(AudioStream, output.add_stream(codec, rate=rate, layout=layout)) for _ in tracks]
        if video:
            for number in range(5):
                still = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * number, np.uint8), format="rgb24")
                still.pts = number
                output.mux(picture.encode(still))
            output.mux(picture.encode(None))
        for stream, track in zip(streams, tracks, strict=True):
            channels = stream.layout.nb_channels
            frame = av.AudioFrame.from_ndarray(np.repeat(track, channels)[None, :], format="s16", layout=layout)
            frame.sample_rate, frame.pts = rate, 0
            output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    return target.getvalue()


def wav(seconds: float, *, rate: int = 16_000, channels: int = 1, data_size: int | None = None) -> bytes:
    """A PCM WAV file, whose header may lie about its rate, its channels and the size of its data."""
    body = tone(seconds, 16_000).tobytes()
    size = len(body) if data_size is None else data_size
    riff = 36 + len(body) if data_size is None else data_size
    return b"".join(
        (
            b"RIFF", riff.to_bytes(4, "little"), b"WAVEfmt ", (16).to_bytes(4, "little"), (1).to_bytes(2, "little"),
            channels.to_bytes(2, "little"), rate.to_bytes(4, "little"), (rate * 2 * channels).to_bytes(4, "little"),
            (2 * channels).to_bytes(2, "little"), (16).to_bytes(2, "little"), b"data", size.to_bytes(4, "little"), body,
        )
    )  # fmt: skip


def mangled(data: bytes, start: float, share: float) -> bytes:
    """`data` with `share` of its bytes, from `start` (0 to 1) on, replaced by noise that is always the same."""
    first, count = int(len(data) * start), int(len(data) * share)
    return data[:first] + np.random.default_rng(1).bytes(count) + data[first + count :]

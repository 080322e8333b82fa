"""Whether a model that was loaded hears at all: some old drivers give empty texts without an error.

The clip is eleven seconds of John F. Kennedy's inaugural address of 1961, in the public domain.
"""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from domain.transcription import SpeechTask
from models.speech.decode_child import Limits, decode
from models.speech.flow import BatchKey
from models.speech.guard import Attempt
from models.speech.whisper import Ears, Sound

MAX_ERROR_RATE = 0.3
_CLIP = Path(__file__).with_name("self_test.mp3")
_SAID = "and so my fellow americans ask not what your country can do for you ask what you can do for your country"
_FRAMES = 1500


def what_is_wrong(ears: Ears) -> str | None:
    """Why `ears` cannot be used, None if they hear the clip; it takes a second or so. Raises what `ears` raise."""
    sound = _clip()
    seconds = len(sound) / 16_000
    key = BatchKey(_FRAMES, decodes=True, attempt=Attempt(0.0, 1))
    encoded = ears.encode([sound], _FRAMES)
    (decoded,) = ears.decode(encoded, [0], key, [("en", SpeechTask.TRANSCRIBE)], [()], [seconds])
    words = re.sub(r"[^a-z\s]", "", decoded.text.lower()).split()
    if not words:
        return "its text is empty"
    reference = _SAID.split()
    rate = edits(words, reference) / len(reference)
    return f"it gets {rate:.0%} of the words wrong" if rate > MAX_ERROR_RATE else None


def edits(words: Sequence[str], reference: Sequence[str]) -> int:
    """The fewest words that are to be put in, left out or changed to come from `words` to `reference`."""
    costs = list(range(len(reference) + 1))
    for row, word in enumerate(words, 1):
        diagonal, costs[0] = costs[0], row
        for column, wanted in enumerate(reference, 1):
            best = min(costs[column] + 1, costs[column - 1] + 1, diagonal + (word != wanted))
            diagonal, costs[column] = costs[column], best
    return costs[-1]


def _clip() -> Sound:
    limits = Limits("mp3", max_seconds=60.0, max_raw_bytes=1 << 26, cpu_seconds=60, memory_bytes=1 << 30)
    with _CLIP.open("rb") as file, tempfile.TemporaryFile(buffering=0) as spool:
        count = decode(file, spool, limits)["samples"]
        spool.seek(0)
        return np.frombuffer(spool.read(count * 2), np.int16).astype(np.float32) / 32768.0

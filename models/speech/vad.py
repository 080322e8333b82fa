"""The voice detector: how likely each frame of a recording is speech."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from faster_whisper.vad import get_vad_model

from models.speech.spans import FRAME

_CONTEXT = 64
_STATE = (1, 1, 128)


class VoiceDetector:
    """Hears one recording block by block, and exactly what it would hear in one piece.

    The network is read-only and shared; what it remembers of the recording is kept here.
    """

    def __init__(self) -> None:
        self._session = get_vad_model().session
        self._h = np.zeros(_STATE, np.float32)
        self._c = np.zeros(_STATE, np.float32)
        self._context = np.zeros(_CONTEXT, np.float32)

    def probabilities(self, samples: npt.NDArray[np.float32]) -> Sequence[float]:
        """One for each frame of `samples`; only the last block may end within a frame, which silence fills up."""
        frames = np.pad(samples, (0, -len(samples) % FRAME)).reshape(-1, FRAME)
        if not len(frames):
            return ()
        contexts = np.concatenate([self._context[None], frames[:-1, -_CONTEXT:]])
        self._context = frames[-1, -_CONTEXT:]
        heard, self._h, self._c = self._session.run(
            None, {"input": np.concatenate([contexts, frames], axis=1), "h": self._h, "c": self._c}
        )
        found: list[float] = heard.reshape(-1).tolist()
        return found

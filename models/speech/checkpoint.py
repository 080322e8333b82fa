"""A Whisper checkpoint in memory, as faster-whisper's recogniser wants it."""

from pathlib import Path

import ctranslate2
from faster_whisper import WhisperModel
from faster_whisper.feature_extractor import FeatureExtractor
from faster_whisper.utils import get_logger

from models import tokenizer_files


class Checkpoint(WhisperModel):  # type: ignore[misc]  # the library has no types
    """faster-whisper's model with a constructor of its own.

    The library's parses the vocabulary anew at each load, which holds the interpreter for 50 ms and more, asks a
    hub for what is missing, and assumes 80 mel bands where the weights may want 128. What it sets is set here;
    the library is pinned.
    """

    def __init__(self, directory: Path, *, device: str, device_index: int, compute_type: str, cpu_threads: int) -> None:
        self.logger = get_logger()
        self.model = ctranslate2.models.Whisper(
            str(directory),
            device=device,
            device_index=device_index,
            compute_type=compute_type,
            intra_threads=cpu_threads,
            inter_threads=1,
        )
        self.hf_tokenizer = tokenizer_files.parsed(directory / "tokenizer.json")
        self.feat_kwargs = {"feature_size": self.model.n_mels}
        self.feature_extractor = FeatureExtractor(**self.feat_kwargs)
        self.input_stride = 2
        self.num_samples_per_token = self.feature_extractor.hop_length * self.input_stride
        rate = self.feature_extractor.sampling_rate
        self.frames_per_second = rate // self.feature_extractor.hop_length
        self.tokens_per_second = rate // self.num_samples_per_token
        self.time_precision = 0.02
        self.max_length = 448

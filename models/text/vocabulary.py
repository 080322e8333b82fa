"""A text model's tokenizer without its weights."""

from pathlib import Path

from domain.errors import ModelLoadFailed
from domain.model import WeightFormat
from models.configuration import refuse_code
from models.text import converted
from models.text.gguf_source import GgufSource
from models.text.tokenizer import TextTokenizer


def read_tokenizer(source: Path, weight_format: WeightFormat, copy: Path) -> TextTokenizer:
    """The tokenizer of the model below `source` (a GGUF file itself, or a directory with safetensors).

    It is taken from the engine's own `copy` where there is one, which is quick; else from the model's files, which
    takes seconds for a GGUF file. Blocking, for a worker thread. Raises ModelLoadFailed for damaged files.
    """
    try:
        if converted.is_intact(copy):
            return TextTokenizer.load(copy)
        if weight_format is WeightFormat.GGUF:
            return GgufSource(source).tokenizer()
        refuse_code(source)
        return TextTokenizer.from_directory(source)
    except ModelLoadFailed:
        raise
    except Exception as error:  # whatever the libraries make of files that people put here
        reason = str(error).replace(str(source), source.name).partition("\n")[0]
        raise ModelLoadFailed(f"the tokenizer of {source.name} cannot be read: {reason}") from error

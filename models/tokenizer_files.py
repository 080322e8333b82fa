"""Parsed vocabularies, kept between loads.

The tokenizers library holds the interpreter while it parses a vocabulary, up to 0.2 s for a large one, and
nothing else runs meanwhile. So each file is parsed once, and `ingle serve` does it before it listens.
"""

import threading
from collections import OrderedDict
from pathlib import Path

from tokenizers import Tokenizer

# Some 20 MB each.
_KEPT = 4

_Key = tuple[str, int, int]
_lock = threading.Lock()
_parsed: OrderedDict[_Key, Tokenizer] = OrderedDict()


def parsed(path: Path) -> Tokenizer:
    """The tokenizer in `path`, shared with everybody else who asks for it: nobody may change it.

    Raises what the tokenizers library raises for a damaged file, and OSError.
    """
    found = path.stat()
    key = (str(path), found.st_size, found.st_mtime_ns)
    with _lock:
        if key in _parsed:
            _parsed.move_to_end(key)
            return _parsed[key]
        tokenizer = Tokenizer.from_file(str(path))
        _parsed[key] = tokenizer
        if len(_parsed) > _KEPT:
            _parsed.popitem(last=False)
        return tokenizer

"""Runs `ingle` inside the test, as its entry point would."""

import pytest

from ingle.cli import main


def run(*arguments: str) -> int:
    """The exit code of `ingle ARGUMENTS`."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code

"""What the tests of /transcribe send."""

from typing import Any

SOUND = b"RIFF\x00\x01 not really sound \xff" * 100


def upload(field: str = "file", content: bytes = SOUND) -> dict[str, Any]:
    return {field: ("../../etc/x.wav", content, "text/html")}

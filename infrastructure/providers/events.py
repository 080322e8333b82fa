"""Server-sent events of a stranger: bytes in, what stands in their `data` out."""

from domain.errors import BadResponse

MAX_LINE = 1 << 20
MAX_ANSWER = 16 << 20


class EventReader:
    """Reads a stream piece by piece. Raises BadResponse for a line above MAX_LINE or more than MAX_ANSWER in all.

    Comments and every field but `data` are passed over; lines of one event are joined.
    """

    def __init__(self) -> None:
        self._count = 0
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of the events that are complete with `piece`."""
        self._count += len(piece)
        if self._count > MAX_ANSWER:
            raise BadResponse("the provider's answer is too long")
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > MAX_LINE or any(len(line) > MAX_LINE for line in lines):
            raise BadResponse("the provider's answer has a line that is too long")
        return [data for line in lines for data in self._take(line.removesuffix(b"\r"))]

    def finish(self) -> list[bytes]:
        """The data of the last event, if nothing marked its end."""
        return [data for line in (self._rest.removesuffix(b"\r"), b"") for data in self._take(line)]

    def _take(self, line: bytes) -> list[bytes]:
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
            return []
        if line or not self._data:
            return []
        event, self._data = b"\n".join(self._data), []
        return [event]

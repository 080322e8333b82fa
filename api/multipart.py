"""multipart/form-data, read while it comes in: files are passed on, text fields are kept, the rest is dropped."""

from collections.abc import Callable, Sequence

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.errors import InvalidBody, InvalidFields, PayloadTooLarge, Problem

MAX_PARTS = 64
MAX_FIELD_BYTES = 64 << 10


class FormReader:
    """Feed it the body in pieces of any size, then `finish`.

    For each part named in `file_names`, `open_file` is called with the client's name for the file; what it returns
    takes the content piece by piece. `fields` has the other parts that have no file name, in order. Raises
    InvalidBody, InvalidFields for too many parts and for more than `max_files` files.
    """

    def __init__(
        self,
        content_type: str,
        file_names: Sequence[str],
        open_file: Callable[[str], Callable[[bytes], None]],
        *,
        max_files: int = 1,
    ) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if not boundary:
            raise InvalidBody("multipart/form-data needs a boundary in its Content-Type")
        self.fields: list[tuple[str, str]] = []
        self.files = 0
        self._file_names = frozenset(file_names)
        self._open_file = open_file
        self._max_files = max_files
        self._parts = 0
        self._has_ended = False
        self._headers: dict[bytes, bytes] = {}
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._name = ""
        self._take: Callable[[bytes], None] = _drop
        self._value = bytearray()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_end": self._on_end,
                },
            )
        except FormParserError:
            raise InvalidBody() from None

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body."""
        if not data:
            return
        try:
            self._parser.write(data)
        except FormParserError:
            raise InvalidBody() from None

    def finish(self) -> None:
        """Raise InvalidBody if the last boundary has not come."""
        if not self._has_ended:
            raise InvalidBody("the multipart body ends too early")

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidFields([Problem((), f"a form may have at most {MAX_PARTS} parts")])
        self._headers = {}
        self._take = _drop
        self._value = bytearray()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[bytes(self._header_name).lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _on_headers_finished(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if disposition != b"form-data" or b"name" not in options:
            raise InvalidBody("a part of the form has no name")
        self._name = _text(options[b"name"])
        if self._name in self._file_names:
            self.files += 1
            if self.files > self._max_files:
                limit = "one file" if self._max_files == 1 else f"{self._max_files} files"
                raise InvalidFields([Problem((self._name,), f"the form has more than {limit}")])
            self._take = self._open_file(options.get(b"filename", b"").decode(errors="replace"))
        elif b"filename" not in options:
            self._take = self._take_value

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._take(data[start:end])

    def _take_value(self, data: bytes) -> None:
        self._value += data
        if len(self._value) > MAX_FIELD_BYTES:
            raise PayloadTooLarge(MAX_FIELD_BYTES)

    def _on_part_end(self) -> None:
        if self._take == self._take_value:
            self.fields.append((self._name, _text(bytes(self._value))))

    def _on_end(self) -> None:
        self._has_ended = True


def _drop(data: bytes) -> None:
    """Where what nobody asked for goes."""
    del data


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidBody("a name or a value in the form is not UTF-8") from None

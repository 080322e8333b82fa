"""What weight files say of themselves: their headers, read within bounds. No weights are read, no code is run."""

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_MAX_SAFETENSORS_HEADER = 64 << 20
_MAX_FIELDS = 10_000
_MAX_TENSORS = 100_000
_MAX_KEPT_STRING = 1 << 20
_MAX_ARRAY = 10_000_000
_MAX_DIMENSIONS = 8

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}

Value = str | int | float | bool


class BadHeader(ValueError):
    """The file is not of the format that its name says, or it is damaged or hostile."""


def safetensors_parameters(path: Path) -> int:
    """How many numbers the tensors of a safetensors file hold. Raises BadHeader, OSError."""
    with path.open("rb") as file:
        prefix = file.read(8)
        size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= size <= min(_MAX_SAFETENSORS_HEADER, os.fstat(file.fileno()).st_size - 8):
            raise BadHeader(f"{path.name} is not a safetensors file")
        try:
            header = json.loads(file.read(size))
            shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
            return sum(math.prod(int(side) for side in shape[:_MAX_DIMENSIONS]) for shape in shapes)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadHeader(f"the header of {path.name} cannot be read") from error


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The fields of a GGUF file that are not lists, and how many numbers its tensors hold."""

    fields: Mapping[str, Value]
    parameters: int


def gguf_header(path: Path) -> GgufHeader:
    """The header of a GGUF file. Raises BadHeader, OSError."""
    with path.open("rb", buffering=1 << 20) as file:
        reader = _Reader(file, os.fstat(file.fileno()).st_size, path.name)
        if reader.take(4) != b"GGUF" or reader.number("<I") not in (2, 3):
            raise BadHeader(f"{path.name} is not a GGUF file of version 2 or 3")
        tensors, count = reader.number("<Q"), reader.number("<Q")
        if tensors > _MAX_TENSORS or count > _MAX_FIELDS:
            raise BadHeader(f"{path.name} claims {tensors} tensors and {count} fields")
        fields: dict[str, Value] = {}
        for _ in range(count):
            key = reader.text()
            value = reader.value(reader.number("<I"))
            if value is not None:
                fields[key] = value
        return GgufHeader(fields, sum(reader.tensor_size() for _ in range(tensors)))


class _Reader:
    """Reads little-endian values and never beyond the end of the file."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self._file = file
        self._left = size
        self._name = name

    def take(self, count: int) -> bytes:
        """Exactly `count` bytes."""
        self._spend(count)
        content = self._file.read(count)
        if len(content) != count:
            raise BadHeader(f"{self._name} is cut")
        return content

    def number(self, layout: str) -> int:
        """One integer in the struct module's `layout`."""
        return int(struct.unpack(layout, self.take(struct.calcsize(layout)))[0])

    def text(self) -> str:
        """A string; one too long to be kept is an error."""
        size = self.number("<Q")
        if size > _MAX_KEPT_STRING:
            raise BadHeader(f"{self._name} holds a string of {size} bytes")
        return self.take(size).decode("utf-8", "replace")

    def value(self, kind: int) -> Value | None:
        """The value of a field; lists are skipped and give None."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            self._skip_array()
            return None
        if kind not in _SCALARS:
            raise BadHeader(f"{self._name} holds a value of the unknown type {kind}")
        layout = _SCALARS[kind]
        value: Value = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return value

    def tensor_size(self) -> int:
        """How many numbers the next tensor holds."""
        self.text()
        dimensions = self.number("<I")
        if dimensions > _MAX_DIMENSIONS:
            raise BadHeader(f"{self._name} holds a tensor of {dimensions} dimensions")
        size = math.prod(self.number("<Q") for _ in range(dimensions))
        self.take(12)  # its type and its offset
        return size

    def _skip_array(self) -> None:
        kind, count = self.number("<I"), self.number("<Q")
        if count > _MAX_ARRAY:
            raise BadHeader(f"{self._name} holds a list of {count} values")
        if kind == _STRING:
            for _ in range(count):
                self._skip(self.number("<Q"))
        elif kind in _SCALARS:
            self._skip(count * struct.calcsize(_SCALARS[kind]))
        else:
            raise BadHeader(f"{self._name} holds a list of the unknown type {kind}")

    def _skip(self, count: int) -> None:
        self._spend(count)
        self._file.seek(count, os.SEEK_CUR)

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise BadHeader(f"{self._name} is cut, or claims more than it holds")

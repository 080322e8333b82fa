"""What weight files say of themselves: their headers, read within bounds. No weights are read, no code is run."""

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    return sum(safetensors_types(path).values())


def safetensors_types(path: Path) -> Mapping[str, int]:
    """How many numbers of which type (`BF16`) the tensors of a safetensors file hold. Raises BadHeader, OSError."""
    with path.open("rb") as file:
        prefix = file.read(8)
        size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= size <= min(_MAX_SAFETENSORS_HEADER, os.fstat(file.fileno()).st_size - 8):
            raise BadHeader(f"{path.name} is not a safetensors file")
        try:
            header = json.loads(file.read(size))
            counts: dict[str, int] = {}
            for name, entry in header.items():
                if name != "__metadata__":
                    kind, shape = str(entry["dtype"])[:16], entry["shape"][:_MAX_DIMENSIONS]
                    counts[kind] = counts.get(kind, 0) + math.prod(int(side) for side in shape)
            return counts
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadHeader(f"the header of {path.name} cannot be read") from error


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The fields of a GGUF file that are not lists, how many numbers its tensors hold, and how long its lists are."""

    fields: Mapping[str, Value]
    parameters: int
    lengths: Mapping[str, int] = field(default_factory=dict)


def gguf_header(path: Path) -> GgufHeader:
    """The header of a GGUF file. Raises BadHeader, OSError."""
    with path.open("rb", buffering=1 << 20) as file:
        reader = _Reader(file, os.fstat(file.fileno()).st_size, path.name)
        tensors, count = reader.opening()
        fields: dict[str, Value] = {}
        lengths: dict[str, int] = {}
        for _ in range(count):
            key = reader.text()
            kind = reader.number("<I")
            if kind == _ARRAY:
                lengths[key] = reader.skip_array()
            else:
                fields[key] = reader.value(kind)
        return GgufHeader(fields, sum(reader.tensor_size() for _ in range(tensors)), lengths)


def gguf_texts(path: Path, name: str) -> tuple[str, ...]:
    """The list of texts in the field `name`; empty where there is none. Raises BadHeader, OSError."""
    with path.open("rb", buffering=1 << 20) as file:
        reader = _Reader(file, os.fstat(file.fileno()).st_size, path.name)
        _, count = reader.opening()
        for _ in range(count):
            key = reader.text()
            kind = reader.number("<I")
            if kind != _ARRAY:
                reader.value(kind)
            elif key == name:
                return reader.texts()
            else:
                reader.skip_array()
    return ()


class _Reader:
    """Reads little-endian values and never beyond the end of the file."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self._file = file
        self._left = size
        self._name = name

    def opening(self) -> tuple[int, int]:
        """(tensors, fields) that the file says it has."""
        if self.take(4) != b"GGUF" or self.number("<I") not in (2, 3):
            raise BadHeader(f"{self._name} is not a GGUF file of version 2 or 3")
        tensors, count = self.number("<Q"), self.number("<Q")
        if tensors > _MAX_TENSORS or count > _MAX_FIELDS:
            raise BadHeader(f"{self._name} claims {tensors} tensors and {count} fields")
        return tensors, count

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

    def value(self, kind: int) -> Value:
        """The value of a field that is no list."""
        if kind == _STRING:
            return self.text()
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

    def texts(self) -> tuple[str, ...]:
        """A list of texts; another list gives none."""
        kind, count = self._array()
        return tuple(self.text() for _ in range(count)) if kind == _STRING else ()

    def skip_array(self) -> int:
        """Pass over a list; returns its length."""
        kind, count = self._array()
        if kind == _STRING:
            for _ in range(count):
                self._skip(self.number("<Q"))
        elif kind in _SCALARS:
            self._skip(count * struct.calcsize(_SCALARS[kind]))
        else:
            raise BadHeader(f"{self._name} holds a list of the unknown type {kind}")
        return count

    def _array(self) -> tuple[int, int]:
        kind, count = self.number("<I"), self.number("<Q")
        if count > _MAX_ARRAY:
            raise BadHeader(f"{self._name} holds a list of {count} values")
        return kind, count

    def _skip(self, count: int) -> None:
        self._spend(count)
        self._file.seek(count, os.SEEK_CUR)

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise BadHeader(f"{self._name} is cut, or claims more than it holds")

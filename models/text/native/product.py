"""Int8 products in the kernels' own layout."""

from collections.abc import Sequence
from ctypes import byref

import torch

from models.text.linear import Int8Linear
from models.text.native.arena import Arena, room_for
from models.text.native.library import COLUMN, PAIR, ProductWeights, library
from models.text.native.team import Team


class Product:
    """One product out of several over the same input: side by side, or column by column in turns.

    Takes the plain weights away from its parts. `structure` points into `self` and lives as long. `group` inputs share
    a scale when they are quantised (a divisor of the inputs and a multiple of 16); without it, all of a row do.
    """

    def __init__(
        self, parts: Sequence[Int8Linear], arena: Arena, *, taking_turns: bool = False, group: int | None = None
    ) -> None:
        native = library()
        assert native is not None
        self.inputs = parts[0].in_features
        self.outputs = _outputs(parts)
        self.groups = self.inputs // (group or self.inputs)
        columns = [_columns(part) for part in parts]
        self._packed = arena.take((self.outputs * self.inputs,), torch.int8)
        self._offset = torch.zeros(self.groups, self.outputs, dtype=torch.int32)
        self._scale = torch.zeros(self.outputs)
        self._bias = torch.zeros(self.outputs) if any(part.bias is not None for part in parts) else None
        self.structure = ProductWeights(
            outputs=self.outputs,
            inputs=self.inputs,
            group=self.inputs // self.groups,
            packed=self._packed.data_ptr(),
            scale=self._scale.data_ptr(),
            offset=self._offset.data_ptr(),
            bias=None if self._bias is None else self._bias.data_ptr(),
        )
        for number, part in enumerate(parts):
            first, step = (number, len(parts)) if taking_turns else (sum(columns[:number]), 1)
            weight = part.take_weight().contiguous()
            native.pack_weights(
                byref(self.structure),
                weight.data_ptr(),
                part.out_features,
                first,
                step,
                self._packed.data_ptr(),
                self._offset.data_ptr(),
            )
            places = _places(part.out_features, first, step)
            self._scale[places] = part.scale
            if self._bias is not None and part.bias is not None:
                self._bias[places] = part.bias.float()

    @property
    def num_bytes(self) -> int:
        """What it takes in memory, and what a step reads of it."""
        vectors = (self._packed, self._scale, self._offset, self._bias)
        return sum(vector.nbytes for vector in vectors if vector is not None)

    def multiply(self, team: Team, x: torch.Tensor) -> torch.Tensor:
        """`[rows, inputs]` floats to `[rows, outputs]`, those that fill up the last pair of columns included."""
        native = library()
        assert native is not None
        rows = x.contiguous().float()
        out = torch.empty(len(x), self.outputs)
        quantized = torch.empty(len(x), self.inputs, dtype=torch.uint8)
        scale = torch.empty(len(x), self.groups)
        native.product(
            team.address,
            byref(self.structure),
            rows.data_ptr(),
            len(x),
            quantized.data_ptr(),
            scale.data_ptr(),
            out.data_ptr(),
        )
        return out


def room_of(parts: Sequence[Int8Linear]) -> int:
    """What a product out of `parts` takes of an arena."""
    return room_for(_outputs(parts) * parts[0].in_features)


def _columns(part: Int8Linear) -> int:
    return -(-part.out_features // COLUMN)


def _outputs(parts: Sequence[Int8Linear]) -> int:
    """Outputs side by side, filled up to whole pairs of columns."""
    return -(-sum(map(_columns, parts)) * COLUMN // PAIR) * PAIR


def _places(features: int, first: int, step: int) -> torch.Tensor:
    """Where the outputs of a part stand among those of the whole product."""
    feature = torch.arange(features)
    return (first + feature // COLUMN * step) * COLUMN + feature % COLUMN

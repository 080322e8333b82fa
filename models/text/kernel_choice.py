"""Which arithmetic text models get on this CPU: what it can do, in order, and how quickly it does it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from models.text.linear import Int8Linear, int8_is_exact
from models.text.native.arena import Arena
from models.text.native.library import why_not
from models.text.native.product import Product, room_of
from models.text.native.team import Team
from models.text.weights import Precision

PRECISIONS = {
    "int8": Precision(True, torch.float32),
    "bfloat16": Precision(False, torch.bfloat16),
    "float32": Precision(False, torch.float32),
}
"""From the fewest bytes a weight to the most: what decoding waits for is memory."""

CLEARLY = 1.5
"""So many times quicker a later one must be: less may be the neighbours' doing, and answers change with it."""

_INPUTS, _OUTPUTS = 1024, 8192
_ROWS = (1, 8)
SHAPE = "1,024 x 8,192 for 1 and for 8 tokens"
_TURNS = 5

Multiply = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """The name among `PRECISIONS`, and why, for people."""

    name: str
    reason: str

    @property
    def precision(self) -> Precision:
        """As a model is loaded with it."""
        return PRECISIONS[self.name]


def chosen(*, int8: bool = True) -> KernelChoice:
    """The best of what this CPU offers, or of what it offers besides int8."""
    return choice_by({name: taken for name, taken in measured().items() if int8 or name != "int8"})


def choice_by(seconds: Mapping[str, float]) -> KernelChoice:
    """The first of `seconds` (what a product takes, by name, in the order of `PRECISIONS`), or one clearly quicker."""
    first, quickest = next(iter(seconds)), min(seconds, key=lambda name: seconds[name])
    if seconds[first] > CLEARLY * seconds[quickest]:
        times = seconds[first] / seconds[quickest]
        return KernelChoice(quickest, f"{quickest}, which was measured to be {times:.1f} times as quick as {first}")
    return KernelChoice(first, _capability(first))


def _capability(name: str) -> str:
    match name:
        case "int8":
            return "int8 rows, exact 32-bit sums (VNNI)"
        case "bfloat16":
            return "bfloat16, which this CPU multiplies natively"
        case _:
            return "float32: this CPU does not multiply bfloat16 natively"


@cache
@torch.inference_mode()
def measured() -> Mapping[str, float]:
    """Seconds of the same products with each arithmetic that this CPU has, in turns; the best of several.

    Measured once, in a tenth of a second.
    """
    products = {name: make() for name, make in _offered().items()}
    questions = {name: _questions(PRECISIONS[name].dtype) for name in products}
    times: dict[str, list[float]] = {name: [] for name in products}
    for _ in range(_TURNS):
        for name, multiply in products.items():
            began = time.perf_counter()
            for question in questions[name]:
                multiply(question)
            times[name].append(time.perf_counter() - began)
    return {name: min(taken) for name, taken in times.items()}


def _questions(dtype: torch.dtype) -> list[torch.Tensor]:
    return [torch.ones(rows, _INPUTS, dtype=dtype) for rows in _ROWS]


def _offered() -> dict[str, Callable[[], Multiply]]:
    offered: dict[str, Callable[[], Multiply]] = {}
    if int8_products_are_exact():
        offered["int8"] = _int8 if why_not() else _native
    if cpu_has_bfloat16():
        offered["bfloat16"] = lambda: _plain(torch.bfloat16)
    return {**offered, "float32": lambda: _plain(torch.float32)}


def _rows_of_int8() -> Int8Linear:
    return Int8Linear(torch.ones(_OUTPUTS, _INPUTS, dtype=torch.int8), torch.ones(_OUTPUTS), None)


def _int8() -> Multiply:
    product = _rows_of_int8()
    product.pack()
    return product


def _native() -> Multiply:
    part, team = _rows_of_int8(), Team(torch.get_num_threads())
    product = Product([part], Arena(room_of([part])))
    return lambda x: product.multiply(team, x)


def _plain(dtype: torch.dtype) -> Multiply:
    weight = torch.ones(_OUTPUTS, _INPUTS, dtype=dtype)
    return lambda x: nn.functional.linear(x, weight)


@cache
def int8_products_are_exact() -> bool:
    """Measured once: the CPU's int8 products lose no bit."""
    return int8_is_exact()


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 natively."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())

"""How fast the matrix kernels are at the shapes of the 0.5B model: GB/s of weights read, TFLOP/s.

    python -m benchmarks.kernels [--quick] [--json] [--check]

Needs no weights. Each shape is multiplied as often as the model has layers, each time with other weights, as a step
does, so that small matrices do not come out of the processor's cache. Bytes are those of the weights alone; a
multiplication and an addition are two operations. `--check` holds the int8 kernel to what batch invariance needs: a
row's product is the same, bit by bit, whoever else is in the batch.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from ingle import environment

environment.prepare()  # before torch is imported, so that kernel threads wait as they do in the server

import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.table import table  # noqa: E402
from ingle.bootstrap import usable_cores  # noqa: E402
from models.text.kernel_choice import cpu_has_bfloat16, int8_products_are_exact  # noqa: E402
from models.text.linear import Int8Linear, quantize_rows  # noqa: E402
from models.text.native.arena import Arena  # noqa: E402
from models.text.native.library import why_not  # noqa: E402
from models.text.native.product import Product, room_of  # noqa: E402
from models.text.native.team import Team  # noqa: E402

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
FEW_ROWS = (1, 8, 16, 512)
# Long enough that the clock's grain does not matter, for the small batches too.
_SECONDS = 0.3
_LEAST_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Shape:
    """A product of the model: `[rows, inputs]` by `[outputs, inputs]`, `count` times a step with other weights."""

    name: str
    outputs: int
    inputs: int
    count: int


# Qwen2.5 0.5B: 24 layers 896 wide, 14 query and 2 key-value heads of 64, 4864 inside, 151,936 tokens.
SHAPES = (
    Shape("q, k, v", 1152, 896, 24),
    Shape("attention out", 896, 896, 24),
    Shape("gate, up", 9728, 896, 24),
    Shape("down", 896, 4864, 24),
    Shape("vocabulary", 151_936, 896, 1),
)


@dataclass(frozen=True, slots=True)
class Speed:
    """One kernel at one shape and batch: `seconds` for all of its `count` products."""

    kernel: str
    shape: str
    rows: int
    seconds: float
    weight_bytes: int
    operations: int

    @property
    def gigabytes(self) -> float:
        """Weights read, GB/s."""
        return self.weight_bytes / self.seconds / 1e9

    @property
    def teraflops(self) -> float:
        """Operations, TFLOP/s."""
        return self.operations / self.seconds / 1e12


def int8_products(shape: Shape) -> list[nn.Module]:
    """Packed, with random weights."""
    products: list[nn.Module] = []
    for _ in range(shape.count):
        product = Int8Linear(*quantize_rows(torch.randn(shape.outputs, shape.inputs)), None)
        product.pack()
        products.append(product)
    return products


class NativeProduct(nn.Module):
    """A product of the native kernels, rows quantised and wake-ups of its threads included."""

    def __init__(self, product: Product, team: Team) -> None:
        super().__init__()
        self._product, self._team = product, team

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[rows, inputs]` to `[rows, outputs]`."""
        return self._product.multiply(self._team, x)


def native_products(shape: Shape) -> list[nn.Module]:
    """Packed for the native kernels, with random weights."""
    team, products = Team(usable_cores()), list[nn.Module]()
    for _ in range(shape.count):
        part = Int8Linear(*quantize_rows(torch.randn(shape.outputs, shape.inputs)), None)
        products.append(NativeProduct(Product([part], Arena(room_of([part]))), team))
    return products


def bfloat16_products(shape: Shape) -> list[nn.Module]:
    """Those of torch, with random weights."""
    products: list[nn.Module] = []
    for _ in range(shape.count):
        product = nn.Linear(shape.inputs, shape.outputs, bias=False, dtype=torch.bfloat16)
        product.requires_grad_(requires_grad=False)
        products.append(product)
    return products


def offered() -> dict[str, tuple[Callable[[Shape], list[nn.Module]], torch.dtype, int]]:
    """The kernels of this CPU: how they are made, the dtype that they take, bytes a weight."""
    found: dict[str, tuple[Callable[[Shape], list[nn.Module]], torch.dtype, int]] = {}
    if not why_not():
        found["native int8"] = (native_products, torch.float32, 1)
    if int8_products_are_exact():
        found["int8"] = (int8_products, torch.float32, 1)
    if cpu_has_bfloat16():
        found["bfloat16"] = (bfloat16_products, torch.bfloat16, 2)
    return found


@torch.inference_mode()
def measure(rows: Sequence[int]) -> list[Speed]:
    """Every kernel at every shape and batch."""
    torch.set_num_threads(usable_cores())
    torch.manual_seed(0)
    speeds = []
    for kernel, (make, dtype, bytes_a_weight) in offered().items():
        for shape in SHAPES:
            products = make(shape)
            weights = shape.count * shape.outputs * shape.inputs
            for count in rows:
                seconds = _seconds(products, torch.randn(count, shape.inputs, dtype=dtype))
                speeds.append(Speed(kernel, shape.name, count, seconds, weights * bytes_a_weight, 2 * count * weights))
    return speeds


def _seconds(products: Sequence[nn.Module], x: torch.Tensor) -> float:
    """The median time of one pass over all products."""
    times: list[float] = []
    while len(times) <= _LEAST_REPEATS or sum(times) < _SECONDS:
        began = time.perf_counter()
        for product in products:
            product(x)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


@torch.inference_mode()
def variant_shapes(rows: Sequence[int]) -> list[str]:
    """The shapes, with the batch, at which a row's int8 product depends on its neighbours."""
    if not int8_products_are_exact():
        return []
    torch.manual_seed(0)
    found = []
    for shape in SHAPES:
        (product,) = int8_products(Shape(shape.name, shape.outputs, shape.inputs, 1))
        x = torch.randn(max(rows), shape.inputs)
        alone = product(x[:1])
        found += [f"{shape.name}, M = {count}" for count in rows if not torch.equal(product(x[:count])[:1], alone)]
    return found


def step_milliseconds(speeds: Sequence[Speed], kernel: str, rows: int) -> float:
    """All products of one step together."""
    return 1000 * sum(speed.seconds for speed in speeds if speed.kernel == kernel and speed.rows == rows)


def render(speeds: Sequence[Speed], rows: Sequence[int]) -> str:
    """A line for each shape and batch, the kernels side by side; last, whole steps."""
    names = list(dict.fromkeys(speed.kernel for speed in speeds))
    by_place = {(speed.kernel, speed.shape, speed.rows): speed for speed in speeds}
    headings = ["product", "M", *(cell for name in names for cell in (f"{name} GB/s", "TFLOP/s", "ms"))]
    lines = []
    for shape in SHAPES:
        for count in rows:
            of_place = [by_place[name, shape.name, count] for name in names]
            figures = [
                cell
                for one in of_place
                for cell in (f"{one.gigabytes:.1f}", f"{one.teraflops:.3f}", f"{1000 * one.seconds:.2f}")
            ]
            lines.append([f"{shape.name} {shape.outputs}x{shape.inputs}, {shape.count} times", str(count), *figures])
    for count in rows:
        whole = [["", "", f"{step_milliseconds(speeds, name, count):.1f}"] for name in names]
        lines.append(["all products of a step", str(count), *(cell for cells in whole for cell in cells)])
    return table(headings, lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 when the int8 kernel is not batch invariant and `--check` was given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"only M = {', '.join(map(str, FEW_ROWS))}")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a row depends on its neighbours")
    options = parser.parse_args(arguments)
    rows = FEW_ROWS if options.quick else ROWS
    speeds = measure(rows)
    if not speeds:
        print("this CPU has neither exact int8 products nor bfloat16", file=sys.stderr)
        return 1
    variant = variant_shapes(rows)
    if options.json:
        print(json.dumps({"speeds": [asdict(speed) for speed in speeds], "depends_on_batch": variant}, indent=2))
    else:
        print(render(speeds, rows))
        print(f"\nA row's int8 product depends on its neighbours: {'; '.join(variant) or 'nowhere'}.")
    return 1 if options.check and variant else 0


if __name__ == "__main__":
    sys.exit(main())

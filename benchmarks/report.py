"""The table of `benchmarks.text`, and which bars hold."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from benchmarks.figures import Decoding, Figures
from benchmarks.table import table

OURS = "ingle"
GENERATE = "generate"
GENERATE_BATCH = "generate_batch"


@dataclass(frozen=True, slots=True)
class Bare:
    """What the kernels do without the server, and the floor that memory sets; see `bare_loop`."""

    kernel: str
    weight_bytes: int
    bytes_per_second: float
    tokens_per_second: Mapping[int, float]

    @property
    def floor_seconds(self) -> float:
        """The least that a decode step can take."""
        return self.weight_bytes / self.bytes_per_second


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that one run found; servers and packages by name."""

    ours: Figures
    servers: Mapping[str, Figures]
    packages: Mapping[str, Figures]
    bare: Bare


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise, and how it went. `limit` is the least, or where `at_most` is set the most."""

    text: str
    limit: float
    value: float
    at_most: bool = False

    @property
    def holds(self) -> bool:
        """Whether it is kept."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit


class Better(Enum):
    """Which way a figure improves."""

    MORE = "more"
    LESS = "less"


@dataclass(frozen=True, slots=True)
class Row:
    """A figure under its heading."""

    heading: str
    value: Callable[[Figures], float | None]
    better: Better = Better.MORE
    digits: int = 0

    def cell(self, figures: Figures) -> str:
        """The figure, or a dash where it was not measured."""
        value = self.value(figures)
        return "-" if value is None else f"{value:,.{self.digits}f}"

    def gain(self, ours: Figures, theirs: Figures) -> str:
        """By how much ours is better: above 1 it is, whichever way the figure goes."""
        pair = (self.value(ours), self.value(theirs))
        ratio = quotient(*pair) if self.better is Better.MORE else quotient(*reversed(pair))
        return "-" if ratio is None else f"{ratio:.2f} x"


def quotient(dividend: float | None, divisor: float | None) -> float | None:
    """None where a figure is missing."""
    return None if dividend is None or not divisor else dividend / divisor


def _sum(figures: Figures, streams: int) -> float | None:
    decoding = figures.decoding.get(streams)
    return None if decoding is None else decoding.while_decoding


def _rows(measured: Measured) -> Iterator[Row]:
    yield Row("prompt of 1,000 tokens alone, tok/s", lambda one: one.prompt)
    for streams in measured.ours.decoding:
        yield from _decode_rows(streams, measured.bare)
    yield Row("first token, idle, p50 ms", lambda one: _ms(one.idle.p50 if one.idle else None), Better.LESS)
    yield Row("first token, idle, p99 ms", lambda one: _ms(one.idle.p99 if one.idle else None), Better.LESS)
    yield Row("first token while 8 decode, p50 ms", lambda one: _ms(one.busy.p50 if one.busy else None), Better.LESS)
    yield Row("first token while 8 decode, p99 ms", lambda one: _ms(one.busy.p99 if one.busy else None), Better.LESS)
    yield Row(
        "first token while 8 decode, p50 in steps", lambda one: one.busy.steps if one.busy else None, Better.LESS, 1
    )
    yield Row("/health while 8 decode, p99 ms", lambda one: _ms(one.health_p99), Better.LESS, 1)
    yield Row("RSS, MiB", lambda one: None if one.rss is None else one.rss / (1 << 20), Better.LESS)


def _decode_rows(streams: int, bare: Bare) -> Iterator[Row]:
    def of(figure: Callable[[Decoding], float | None]) -> Callable[[Figures], float | None]:
        return lambda one: figure(one.decoding[streams]) if streams in one.decoding else None

    name = f"{streams} stream{'s' if streams > 1 else ''}"
    yield Row(f"{name}: sum while decoding, tok/s", of(lambda one: one.while_decoding))
    if streams > 1:
        yield Row(f"{name}: each while decoding, tok/s", of(lambda one: one.per_stream), digits=1)
    yield Row(f"{name}: end to end, tok/s", of(lambda one: one.end_to_end))
    yield Row(f"{name}: step, ms", of(lambda one: _ms(one.step_seconds)), Better.LESS, 1)
    yield Row(
        f"{name}: step over the memory floor",
        of(lambda one: quotient(one.step_seconds, bare.floor_seconds)),
        Better.LESS,
        2,
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def bars_of(measured: Measured) -> list[Bar]:
    """Those that this run can judge. What a peer is held against does not depend on who the peer is."""
    ours, bars = measured.ours, []

    def judge(text: str, limit: float, value: float | None, *, at_most: bool = False) -> None:
        if value is not None:
            bars.append(Bar(text, limit, value, at_most))

    for name, peer in measured.servers.items():
        judge(f"decode at 8 streams ÷ {name}", 2.0, quotient(_sum(ours, 8), _sum(peer, 8)))
        judge(f"decode at 16 streams ÷ {name}", 2.0, quotient(_sum(ours, 16), _sum(peer, 16)))
        judge(f"decode at 1 stream ÷ {name}", 1.2, quotient(_sum(ours, 1), _sum(peer, 1)))
        judge(f"prompt of 1,000 tokens ÷ {name}", 5.0, quotient(ours.prompt, peer.prompt))
    if GENERATE_BATCH in measured.packages:
        theirs = _sum(measured.packages[GENERATE_BATCH], 8)
        judge(f"decode at 8 streams ÷ {GENERATE_BATCH}", 3.0, quotient(_sum(ours, 8), theirs))
    judge(
        "decode at 8 streams ÷ bare loop of kernels",
        0.9,
        quotient(_sum(ours, 8), measured.bare.tokens_per_second.get(8)),
    )
    judge("first token while 8 decode, p50 in steps", 4.0, ours.busy.steps if ours.busy else None, at_most=True)
    judge("/health while 8 decode, p99 ms", 50.0, _ms(ours.health_p99), at_most=True)
    return bars


def render(measured: Measured) -> str:
    """The table, what the floor is, and the bars."""
    bare, ours = measured.bare, measured.ours
    others = {**measured.servers, **measured.packages}
    headings = ["", OURS, *(cell for name in others for cell in (name, "better by"))]
    rows = [
        [
            row.heading,
            row.cell(ours),
            *(cell for one in others.values() for cell in (row.cell(one), row.gain(ours, one))),
        ]
        for row in _rows(measured)
    ]
    rates = ", ".join(f"{rate:.0f} tok/s at {streams}" for streams, rate in bare.tokens_per_second.items())
    return "\n\n".join(
        [
            table(headings, rows),
            f"Memory floor of a step: {bare.weight_bytes / 1e6:.0f} MB of weights at {bare.bytes_per_second / 1e9:.1f} "
            f"GB/s = {1000 * bare.floor_seconds:.1f} ms. Bandwidth: the better of copying 512 MiB (bytes read and "
            f"bytes written count) and adding them up.\nBare loop of kernels, without server and scheduler: {rates}. "
            f"Kernel: {bare.kernel}.",
            render_bars(bars_of(measured)),
        ]
    )


def render_bars(bars: list[Bar]) -> str:
    """Each bar, what was measured, and whether it holds."""
    return table(
        ["bar", "limit", "measured", ""],
        [
            [
                one.text,
                f"{'≤' if one.at_most else '≥'} {one.limit:g}",
                f"{one.value:.3g}",
                "ok" if one.holds else "MISSED",
            ]
            for one in bars
        ],
    )

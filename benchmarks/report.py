"""The table of `benchmarks.text`, and which bars hold."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from benchmarks.figures import Decoding, Figures
from benchmarks.table import table
from benchmarks.turns import BARE, OURS, Spread, Turn, Value, quotient, ratios, spread_of, values
from benchmarks.unserved import GENERATE_BATCH


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that one run found: its turns, and which of their names are servers and which packages.

    `weight_bytes` is what a step of decoding reads.
    """

    turns: Sequence[Turn]
    servers: Sequence[str]
    packages: Sequence[str]
    kernel: str
    weight_bytes: int

    def of(self, name: str, value: Value) -> Spread | None:
        """A figure of one target."""
        return spread_of(values(self.turns, name, value))

    def over(self, name: str, value: Value) -> Spread | None:
        """A figure of ours over the same one of another target."""
        return spread_of(ratios(self.turns, value, OURS, name))

    def under(self, name: str, value: Value) -> Spread | None:
        """A figure of another target over the same one of ours."""
        return spread_of(ratios(self.turns, value, name, OURS))


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise, and how it went. `limit` is the least, or where `at_most` is set the most.

    `value` is a median of turns, `lowest` and `highest` are the extremes among them.
    """

    text: str
    limit: float
    value: float
    lowest: float
    highest: float
    turns: int
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
    value: Value
    better: Better = Better.MORE
    digits: int = 0

    def cell(self, measured: Measured, name: str) -> str:
        """The figure, or a dash where it was not measured."""
        found = measured.of(name, self.value)
        return "-" if found is None else f"{found.median:,.{self.digits}f}"

    def gain(self, measured: Measured, name: str) -> Spread | None:
        """By how much ours is better: above 1 it is, whichever way the figure goes."""
        return (measured.over if self.better is Better.MORE else measured.under)(name, self.value)

    def gain_cell(self, measured: Measured, name: str) -> str:
        """The same for a table."""
        found = self.gain(measured, name)
        return "-" if found is None else f"{found.median:.2f} x"


def _prompt(figures: Figures) -> float | None:
    return figures.prompt


def _sum(streams: int) -> Value:
    return _of(streams, lambda one: one.while_decoding)


def _of(streams: int, figure: Callable[[Decoding], float | None]) -> Value:
    return lambda one: figure(one.decoding[streams]) if streams in one.decoding else None


def _steps_waited(figures: Figures) -> float | None:
    return figures.busy.steps if figures.busy else None


def _health(figures: Figures) -> float | None:
    return _ms(figures.health_p99)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def _rows(measured: Measured) -> Iterator[Row]:
    yield Row("prompt of 1,000 tokens alone, tok/s", _prompt)
    for streams in _streams(measured):
        yield from _decode_rows(streams)
    yield Row("first token, idle, p50 ms", lambda one: _ms(one.idle.p50 if one.idle else None), Better.LESS)
    yield Row("first token, idle, p99 ms", lambda one: _ms(one.idle.p99 if one.idle else None), Better.LESS)
    yield Row("first token while 8 decode, p50 ms", lambda one: _ms(one.busy.p50 if one.busy else None), Better.LESS)
    yield Row("first token while 8 decode, p99 ms", lambda one: _ms(one.busy.p99 if one.busy else None), Better.LESS)
    yield Row("first token while 8 decode, p50 in steps", _steps_waited, Better.LESS, 1)
    yield Row("/health while 8 decode, p99 ms", _health, Better.LESS, 1)
    yield Row("RSS, MiB", lambda one: None if one.rss is None else one.rss / (1 << 20), Better.LESS)


def _streams(measured: Measured) -> Sequence[int]:
    return sorted({count for turn in measured.turns if OURS in turn for count in turn[OURS].decoding})


def _decode_rows(streams: int) -> Iterator[Row]:
    name = f"{streams} stream{'s' if streams > 1 else ''}"
    yield Row(f"{name}: sum while decoding, tok/s", _sum(streams))
    if streams > 1:
        yield Row(f"{name}: each while decoding, tok/s", _of(streams, lambda one: one.per_stream), digits=1)
    yield Row(f"{name}: end to end, tok/s", _of(streams, lambda one: one.end_to_end))
    step = _of(streams, lambda one: one.step_seconds)
    yield Row(f"{name}: step, ms", lambda one: _ms(step(one)), Better.LESS, 1)
    yield Row(f"{name}: step over the memory floor", lambda one: quotient(step(one), one.floor_seconds), Better.LESS, 2)


def bars_of(measured: Measured) -> list[Bar]:
    """Those that this run can judge. What a peer is held against does not depend on who the peer is."""
    bars = []

    def judge(text: str, limit: float, found: Spread | None, *, at_most: bool = False) -> None:
        if found is not None:
            bars.append(Bar(text, limit, found.median, found.lowest, found.highest, found.turns, at_most))

    for name in measured.servers:
        judge(f"decode at 8 streams ÷ {name}", 2.0, measured.over(name, _sum(8)))
        judge(f"decode at 16 streams ÷ {name}", 2.0, measured.over(name, _sum(16)))
        judge(f"decode at 1 stream ÷ {name}", 1.2, measured.over(name, _sum(1)))
        judge(f"prompt of 1,000 tokens ÷ {name}", 5.0, measured.over(name, _prompt))
    judge(f"decode at 8 streams ÷ {GENERATE_BATCH}", 3.0, measured.over(GENERATE_BATCH, _sum(8)))
    judge(f"decode at 8 streams ÷ {BARE}", 0.9, measured.over(BARE, _sum(8)))
    judge("first token while 8 decode, p50 in steps", 4.0, measured.of(OURS, _steps_waited), at_most=True)
    judge("/health while 8 decode, p99 ms", 50.0, measured.of(OURS, _health), at_most=True)
    return bars


def render(measured: Measured) -> str:
    """The table, what the floor is, and the bars."""
    others = [*measured.servers, *measured.packages]
    headings = ["", OURS, *(cell for name in others for cell in (name, "better by"))]
    rows = [
        [
            row.heading,
            row.cell(measured, OURS),
            *(cell for name in others for cell in (row.cell(measured, name), row.gain_cell(measured, name))),
        ]
        for row in _rows(measured)
    ]
    return "\n\n".join(
        [
            table(headings, rows),
            "Ratios are medians of the ratios of turns, within which all were measured seconds apart; every other "
            "figure is a median of its own.",
            f"{_floor(measured)}\n{_bare(measured)}",
            render_bars(bars_of(measured)),
        ]
    )


def _floor(measured: Measured) -> str:
    bandwidth = measured.of(BARE, lambda one: quotient(measured.weight_bytes, one.floor_seconds))
    assert bandwidth is not None
    return (
        f"Memory floor of a step: {measured.weight_bytes / 1e6:.0f} MB of weights at {bandwidth.median / 1e9:.1f} GB/s "
        f"= {1000 * measured.weight_bytes / bandwidth.median:.1f} ms; in single turns {bandwidth.lowest / 1e9:.1f} to "
        f"{bandwidth.highest / 1e9:.1f} GB/s. Bandwidth: the better of copying 512 MiB (bytes read and bytes written "
        "count) and adding them up."
    )


def _bare(measured: Measured) -> str:
    found = ((streams, measured.of(BARE, _sum(streams))) for streams in _streams(measured))
    rates = ", ".join(f"{rate.median:.0f} tok/s at {streams}" for streams, rate in found if rate is not None)
    return f"Bare loop of kernels, without server and scheduler: {rates}. Kernel: {measured.kernel}."


def render_bars(bars: list[Bar]) -> str:
    """Each bar, what was measured, and whether it holds."""
    return table(
        ["bar", "limit", "measured", "lowest", "highest", "turns", ""],
        [
            [
                one.text,
                f"{'≤' if one.at_most else '≥'} {one.limit:g}",
                *(f"{value:.3g}" for value in (one.value, one.lowest, one.highest)),
                str(one.turns),
                "ok" if one.holds else "MISSED",
            ]
            for one in bars
        ],
    )


def as_json(measured: Measured) -> dict[str, Any]:
    """Everything measured, the rows of the table, and the bars; for machines."""
    others = [*measured.servers, *measured.packages]
    return {
        "measured": asdict(measured),
        "rows": [
            {
                "heading": row.heading,
                "figures": {name: _plain(measured.of(name, row.value)) for name in (OURS, BARE, *others)},
                "better_by": {name: _plain(row.gain(measured, name)) for name in others},
            }
            for row in _rows(measured)
        ],
        "bars": [{**asdict(bar), "holds": bar.holds} for bar in bars_of(measured)],
    }


def _plain(spread: Spread | None) -> dict[str, float] | None:
    return None if spread is None else asdict(spread)

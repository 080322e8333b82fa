"""What each kernel makes of texts that it did not write: perplexity, and how often it agrees with the reference.

    python -m benchmarks.quality [--model NAME] [--device cpu] [--tokens 256] [--windows 32] [--json] [--check]

The texts of `benchmarks/texts`, and after them the guides of `docs`, are cut into windows of `--tokens` tokens. A
kernel reads `--windows` of them side by side, a token of each in every step, as streams are decoded, and is asked for
the next token each time. Reference is float32 with the same weights. A ratio of perplexities is printed with its
standard error: kernels that differ in their last digits only are tenths of a percent apart on so few tokens. The first
run of a kernel makes the converted copy that the server would make, in the store.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence as Many
from dataclasses import asdict, dataclass
from pathlib import Path

from ingle import environment

environment.prepare()  # before torch is imported, so that kernel threads wait as they do in the server

import torch  # noqa: E402

from benchmarks import loaded_model  # noqa: E402
from benchmarks.table import table  # noqa: E402
from domain.errors import InvalidRequest  # noqa: E402
from domain.prompt import RawText  # noqa: E402
from models.text.placement import Placement  # noqa: E402
from models.text.weights import LoadedWeights  # noqa: E402

MODEL = "qwen2.5-coder:0.5b"
TEXTS = Path(__file__).parent / "texts"
GUIDES = Path(__file__).parent.parent / "docs"
REFERENCE = "float32"
# Spec: int8 over bfloat16.
BAR = 1.015


@dataclass(frozen=True, slots=True)
class Reading:
    """What a kernel said about every token: surprise in nats, and the token that it would have chosen."""

    kernel: str
    surprise: torch.Tensor
    choice: torch.Tensor

    @property
    def perplexity(self) -> float:
        """The mean surprise, as that many equally likely tokens."""
        return math.exp(self.surprise.mean().item())


@dataclass(frozen=True, slots=True)
class Quality:
    """One row: how a kernel compares with the reference and, where there is one, with bfloat16 (`error`: its own)."""

    kernel: str
    tokens: int
    perplexity: float
    over_reference: float
    over_bfloat16: float | None
    error: float | None
    agreement: float


def kernels(device: str) -> dict[str, Placement]:
    """Every kernel that `device` offers, by name, the reference first."""
    wishes = {REFERENCE: ("none", "float32"), "bfloat16": ("none", "bfloat16"), "int8": ("int8", "auto")}
    offered = {}
    for name, (quantization, dtype) in wishes.items():
        try:
            offered[name] = loaded_model.placed(device, quantization, dtype)
        except InvalidRequest as refusal:
            print(f"note: no {name} here: {refusal}", file=sys.stderr)
    return offered


def windows(loaded: LoadedWeights, tokens: int, count: int) -> list[list[int]]:
    """Up to `count` windows of `tokens` token ids; what does not fill a window is left out."""
    found: list[list[int]] = []
    for path in [*sorted(TEXTS.glob("*.txt")), *sorted(GUIDES.glob("*.md"))]:
        ids = loaded.tokenizer.encode(RawText(path.read_text(encoding="utf-8")))
        found += [ids[start : start + tokens] for start in range(0, len(ids) - tokens + 1, tokens)]
    return found[:count]


def read(kernel: str, loaded: LoadedWeights, placement: Placement, texts: Many[Many[int]]) -> Reading:
    """Teacher forcing: every window is told token by token, whatever the kernel would have said."""
    batch = loaded_model.Batch(loaded, placement, [ids[:1] for ids in texts], len(texts[0]))
    surprises, choices = [], []
    for place in range(1, len(texts[0])):
        logits = batch.step().float()
        told = torch.tensor([ids[place] for ids in texts], device=logits.device)
        surprises.append(torch.nn.functional.cross_entropy(logits, told, reduction="none").cpu())
        choices.append(logits.argmax(dim=1).cpu())
        for sequence, ids in zip(batch.sequences, texts, strict=True):
            sequence.append(ids[place])
    return Reading(kernel, torch.stack(surprises), torch.stack(choices))


def measure(model: str, device: str, tokens: int, count: int) -> list[Quality]:
    """One row for each kernel. Raises ModelNotFound, ModelLoadFailed, InsufficientStorage."""
    installed = loaded_model.find(model)
    readings: dict[str, Reading] = {}
    for name, placement in kernels(device).items():
        print(f"reading with {name}", file=sys.stderr)
        loaded = installed.load(placement)
        readings[name] = read(name, loaded, placement, windows(loaded, tokens, count))
        del loaded
    return [compare(reading, readings[REFERENCE], readings.get("bfloat16")) for reading in readings.values()]


def compare(reading: Reading, reference: Reading, bfloat16: Reading | None) -> Quality:
    """The figures of one kernel."""
    more = None if bfloat16 is None else (reading.surprise - bfloat16.surprise).flatten()
    return Quality(
        reading.kernel,
        reading.surprise.numel(),
        reading.perplexity,
        reading.perplexity / reference.perplexity,
        None if bfloat16 is None else reading.perplexity / bfloat16.perplexity,
        None if more is None else more.std().item() / math.sqrt(more.numel()),
        (reading.choice == reference.choice).float().mean().item(),
    )


def missed(rows: Many[Quality]) -> list[Quality]:
    """The quantised kernels that are worse than the bar allows."""
    return [row for row in rows if row.kernel == "int8" and row.over_bfloat16 is not None and row.over_bfloat16 > BAR]


def render(rows: Many[Quality]) -> str:
    """The table and the verdict."""
    headings = ["kernel", "tokens", "perplexity", f"over {REFERENCE}", "over bfloat16", f"same choice as {REFERENCE}"]
    cells = [
        [
            row.kernel,
            str(row.tokens),
            f"{row.perplexity:.3f}",
            f"{100 * (row.over_reference - 1):+.2f} %",
            _with_error(row.over_bfloat16, row.error),
            f"{100 * row.agreement:.1f} %",
        ]
        for row in rows
    ]
    verdict = "MISSED" if missed(rows) else "ok"
    return f"{table(headings, cells)}\n\nBar: perplexity of int8 over bfloat16 at most {BAR}: {verdict}."


def _with_error(ratio: float | None, error: float | None) -> str:
    return "-" if ratio is None or error is None else f"{100 * (ratio - 1):+.2f} ± {100 * error:.2f} %"


def main(arguments: Many[str] | None = None) -> int:
    """Run from the command line; 1 when the bar is missed and `--check` was given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=MODEL, help=f"an installed text model (default {MODEL})")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default cpu)")
    parser.add_argument("--tokens", type=int, default=256, help="length of a window (default 256)")
    parser.add_argument("--windows", type=int, default=32, help="how many of them at most (default 32)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--check", action="store_true", help="exit with 1 when the bar is missed")
    options = parser.parse_args(arguments)
    rows = measure(options.model, options.device, options.tokens, options.windows)
    if options.json:
        print(json.dumps({"bar": BAR, "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        print(render(rows))
    return 1 if options.check and missed(rows) else 0


if __name__ == "__main__":
    sys.exit(main())

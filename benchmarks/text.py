"""How quickly text comes: prompts, streams, first tokens, against the memory of this machine and against peers.

    python -m benchmarks.text [--quick] [--peer NAME=BASE_URL] [--packages transformers] [--json] [--check]

A server is started for it and driven over HTTP by streaming clients that speak OpenAI's chat completions; they run on
the same machine and share its cores. No two prompts begin alike, so a cache of prefixes has nothing to give. Rounds of
all targets alternate, and every figure is the median over rounds. Give this machine to the benchmark alone.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from benchmarks.figures import Decoding, Figures, middle
from benchmarks.prompts import Prompts
from benchmarks.report import GENERATE, GENERATE_BATCH, OURS, Bare, Measured, bars_of, render
from benchmarks.server import Server
from benchmarks.targets import Plan, Target
from benchmarks.worker import Worker

MODEL = "qwen2.5-coder:0.5b"
FULL = Plan(rounds=3, streams=(1, 4, 8, 16), questions=20)
QUICK = Plan(rounds=1, streams=(1, 8), questions=8)
# Above this many runnable processes the figures say more about the neighbours than about the targets.
BUSY_LOAD = 0.5


def measure(
    plan: Plan, model: str, device: str, peers: Sequence[tuple[str, str]], peer_streams: int, *, packages: bool
) -> Measured:
    """Everything, round by round. Raises RequestFailed, ServerFailed, WorkerFailed, httpx2.HTTPError."""
    with ExitStack() as stack:
        # What guesses give depends on how often a text repeats itself; `benchmarks.lookup` measures that by itself.
        environment = {**os.environ, "INGLE_SPECULATION": "off"}
        server = stack.enter_context(Server("--preload", model, "--device", device, environment=environment))
        url = f"{server.url}/v1"
        ours = stack.enter_context(Target(OURS, url, model))
        servers = [stack.enter_context(Target(name, at, max_streams=peer_streams)) for name, at in peers]
        transformers = stack.enter_context(Worker("benchmarks.packages")) if packages else None
        # The kernels' threads wait as they do in the server, so that the two can be compared.
        bare = stack.enter_context(Worker("benchmarks.bare_loop", GOMP_SPINCOUNT="1000"))
        prompts = Prompts(ours.count)
        found: dict[str, list[Figures]] = {}
        rates: list[dict[str, Any]] = []
        for number in range(1, plan.rounds + 1):
            tell(f"round {number} of {plan.rounds}")
            found.setdefault(OURS, []).append(ours.measure(plan, prompts, health_url=f"{server.url}/health"))
            for peer in servers:
                tell(f"  {peer.name}")
                found.setdefault(peer.name, []).append(peer.measure(plan, prompts))
            if transformers is not None:
                for name, streams in ((GENERATE, (1, 8)), (GENERATE_BATCH, (8,))):
                    tell(f"  transformers {name}")
                    found.setdefault(name, []).append(ask_package(transformers, name, plan, model, device, streams))
            rates.append(bare.ask(**question(plan, model, device, plan.streams)))
    packaged = [GENERATE, GENERATE_BATCH] if packages else []
    return Measured(
        ours=middle(found[OURS]),
        servers={peer.name: middle(found[peer.name]) for peer in servers},
        packages={name: middle(found[name]) for name in packaged},
        bare=middle_bare(rates),
    )


def question(plan: Plan, model: str, device: str, streams: Sequence[int]) -> dict[str, Any]:
    """What workers are asked."""
    return {
        "model": model,
        "device": device,
        "streams": list(streams),
        "prompt_tokens": plan.prompt_tokens,
        "long_prompt": plan.long_prompt,
        "new_tokens": plan.new_tokens,
    }


def ask_package(worker: Worker, name: str, plan: Plan, model: str, device: str, streams: Sequence[int]) -> Figures:
    """One round of transformers. Raises WorkerFailed."""
    answer = worker.ask(do=name, **question(plan, model, device, streams))
    decoding = {int(count): Decoding(int(count), *rates) for count, rates in answer["decoding"].items()}
    return Figures(prompt=answer["prompt"], decoding=decoding)


def middle_bare(rounds: Sequence[dict[str, Any]]) -> Bare:
    """The best round: a floor and a bare loop are about what is possible."""
    return Bare(
        kernel=str(rounds[0]["kernel"]),
        weight_bytes=int(rounds[0]["weight_bytes"]),
        bytes_per_second=max(float(one["bytes_per_second"]) for one in rounds),
        tokens_per_second={
            int(streams): max(float(one["tokens_per_second"][streams]) for one in rounds)
            for streams in rounds[0]["tokens_per_second"]
        },
    )


def tell(line: str) -> None:
    """Progress, beside the table."""
    print(line, file=sys.stderr, flush=True)


def named_url(text: str) -> tuple[str, str]:
    """`NAME=BASE_URL` in two."""
    name, _, url = text.partition("=")
    if not name or not url.startswith("http://"):
        raise argparse.ArgumentTypeError(f"write NAME=http://host:port/v1, not {text}")
    return name, url


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 when a bar is missed and `--check` was given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of 1 and 8 streams: about a minute")
    parser.add_argument("--model", default=MODEL, help=f"an installed text model (default {MODEL})")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    parser.add_argument("--peer", type=named_url, action="append", default=[], metavar="NAME=BASE_URL",
                        help="measure an OpenAI-compatible server too; may be repeated")  # fmt: skip
    parser.add_argument("--peer-streams", type=int, default=16, metavar="N",
                        help="most streams that peers are asked for at once (default 16)")  # fmt: skip
    parser.add_argument("--packages", choices=["transformers"], action="append", default=[],
                        help="measure generate and generate_batch of transformers too")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a bar is missed")
    options = parser.parse_args(arguments)
    if os.getloadavg()[0] > BUSY_LOAD:
        tell(f"note: the load of this machine is {os.getloadavg()[0]:.1f} before anything is measured")
    measured = measure(
        QUICK if options.quick else FULL,
        options.model,
        options.device,
        options.peer,
        options.peer_streams,
        packages=bool(options.packages),
    )
    bars = bars_of(measured)
    if options.json:
        verdicts = [{**asdict(bar), "holds": bar.holds} for bar in bars]
        print(json.dumps({"measured": asdict(measured), "bars": verdicts}, indent=2))
    else:
        print(render(measured))
    return 1 if options.check and not all(bar.holds for bar in bars) else 0


if __name__ == "__main__":
    sys.exit(main())

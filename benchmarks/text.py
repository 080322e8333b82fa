"""How quickly text comes: prompts, streams, first tokens, against the memory of this machine and against peers.

    python -m benchmarks.text [--quick] [--peer NAME=BASE_URL] [--packages transformers] [--json] [--check]

A server is started for it and driven over HTTP by streaming clients that speak OpenAI's chat completions; they run on
the same machine and share its cores. No two prompts begin alike but for the chat template's opening, which
caches of prefixes keep.

Targets take turns figure by figure: each of them answers the same question, seconds apart, and who is first changes
from turn to turn. Every ratio (better by, over the floor, and the bars that are ratios) is the median of the ratios of
turns, so that a machine which is quicker in one minute than in the next favours nobody; every other figure is the
median of its own measurements. Give this machine to the benchmark alone.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from benchmarks.endpoint import Endpoint, counter
from benchmarks.plan import Plan
from benchmarks.prompts import Prompts
from benchmarks.report import Measured, as_json, bars_of, render
from benchmarks.server import Server
from benchmarks.turns import OURS, Target, Turn, schedule, with_floor
from benchmarks.unserved import PACKAGED, BareLoop, Package, asks
from benchmarks.worker import Worker

MODEL = "qwen2.5-coder:0.5b"
FULL = Plan(rounds=3, streams=(1, 4, 8, 16), questions=20)
QUICK = Plan(rounds=1, streams=(1, 8), questions=8)
# Above this many runnable processes the figures say more about the neighbours than about the targets.
BUSY_LOAD = 0.5


def measure(
    plan: Plan, model: str, device: str, peers: Sequence[tuple[str, str]], peer_streams: int, *, packages: bool
) -> Measured:
    """Everything, turn by turn. Raises RequestFailed, ServerFailed, WorkerFailed, httpx2.HTTPError."""
    with ExitStack() as stack:
        # What guesses give depends on how often a text repeats itself; `benchmarks.lookup` measures that by itself.
        environment = {**os.environ, "INGLE_SPECULATION": "off"}
        server = stack.enter_context(Server("--preload", model, "--device", device, environment=environment))
        url = f"{server.url}/v1"
        prompts = Prompts(counter(url, model))
        ours = Endpoint(OURS, url, plan, prompts, model, quick=True, health_url=f"{server.url}/health")
        servers = [Endpoint(name, at, plan, prompts, max_streams=peer_streams) for name, at in peers]
        for endpoint in (ours, *servers):
            stack.enter_context(endpoint)
        ask = asks(plan, model, device)
        # The kernels' threads wait as they do in the server, so that the two can be compared.
        bare = BareLoop(stack.enter_context(Worker("benchmarks.bare_loop", GOMP_SPINCOUNT="1000")), ask)
        packaged = []
        if packages:
            transformers = stack.enter_context(Worker("benchmarks.packages"))
            packaged = [Package(name, transformers, ask) for name in PACKAGED]
        kernel, weight_bytes = bare.describe()
        return Measured(
            turns=list(take_turns(plan, [ours, *servers, *packaged, bare])),
            servers=[peer.name for peer in servers],
            packages=[package.name for package in packaged],
            kernel=kernel,
            weight_bytes=weight_bytes,
        )


def take_turns(plan: Plan, targets: Sequence[Target]) -> Iterator[Turn]:
    """Each turn when it is over. Raises RequestFailed, WorkerFailed."""
    for target in targets:
        # For nothing: some load when they are first asked.
        target.measure(next(question for question in plan.round() if target.takes(question)))
    for number, question, order in schedule(plan, targets):
        tell(f"round {number} of {plan.rounds}: {question}: {', '.join(target.name for target in order)}")
        yield with_floor({target.name: target.measure(question) for target in order})


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
    print(json.dumps(as_json(measured), indent=2) if options.json else render(measured))
    return 1 if options.check and not all(bar.holds for bar in bars_of(measured)) else 0


if __name__ == "__main__":
    sys.exit(main())

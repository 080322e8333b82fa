"""Takes every measurement anew and writes its table into docs/performance.md, with date, machine and command.

    python -m benchmarks.record [--peer NAME=BASE_URL] [--packages transformers] [--only NAME] [--anyway]

What it is not told about goes to the first one named by `--only`, else to `benchmarks.text`. Unless told `--anyway` it
first waits until nothing else runs on this machine, because figures that were taken beside other work say nothing.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from ingle.bootstrap import usable_cores

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BENCHMARKS = ("text", "quality", "kernels", "responsiveness", "lookup", "speech", "speech_windows", "jobs")
QUIET_LOAD = 0.3
QUIET_SECONDS = 900.0
_ASK_EVERY_SECONDS = 5.0


def machine() -> str:
    """The machine in words, without names."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    flags = [flag for flag in wanted if flag in fields["flags"].split()]
    return f"{fields['model name']}, {usable_cores()} cores, {' '.join(flags)}; torch {version('torch')}"


def wait_until_quiet() -> None:
    """Sleep until hardly anything runs. Raises TimeoutError."""
    end = time.monotonic() + QUIET_SECONDS
    while os.getloadavg()[0] > QUIET_LOAD:
        if time.monotonic() > end:
            raise TimeoutError(f"the load stayed above {QUIET_LOAD}: stop what else runs here, or give --anyway")
        time.sleep(_ASK_EVERY_SECONDS)


def run(name: str, options: Sequence[str]) -> str:
    """What `python -m benchmarks.NAME` prints. Raises subprocess.CalledProcessError."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def block(name: str, options: Sequence[str], printed: str, load: float) -> str:
    """What stands on the page between the markers of `name`."""
    date = datetime.now(UTC).date().isoformat()
    beside = "" if load <= QUIET_LOAD else f" **Other work ran on the machine (load {load:.1f}): to be taken again.**"
    command = " ".join(["python -m", f"benchmarks.{name}", *options])
    return f"{date}, {machine()}.{beside}\n\n    {command}\n\n{printed}"


def replaced(page: str, name: str, text: str) -> str:
    """The page with `text` between the markers of `name`. Raises ValueError where the page lacks them."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    found, count = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{text}\n{end}", page, flags=re.S
    )
    if count != 1:
        raise ValueError(f"the page has {count} places for {name}, not one")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=BENCHMARKS, action="append", help="leave the other tables as they are")
    parser.add_argument("--anyway", action="store_true", help="do not wait for a quiet machine; the page will say so")
    options, rest = parser.parse_known_args(arguments)
    names = options.only or BENCHMARKS
    for name in names:
        if not options.anyway:
            wait_until_quiet()
        load = os.getloadavg()[0]
        more = rest if name == names[0] else []
        text = block(name, more, run(name, more), load)
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), name, text), encoding="utf-8")
        print(text, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

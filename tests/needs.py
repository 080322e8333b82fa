"""What a test may need of the machine: one check for each marker, and what is said where it is missing.

A check returns None where the need is met, else the reason in words.
"""

import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from domain.errors import IngleError

if TYPE_CHECKING:  # an import at run time would cost every test run the time that one of weights takes
    from domain.library import PullProgress
    from ingle.settings import Settings
    from models.store import ModelStore

REQUIRE = "INGLE_TEST_REQUIRE"
OLLAMA_JS = "0.6.4"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_PATIENCE = 2.0


@cache
def default_settings() -> "Settings":
    """The settings of somebody who has set nothing but where models and data lie and where they come from."""
    from ingle.settings_sources import read_settings

    kept = ("INGLE_DATA_DIR", "INGLE_MODELS_DIR", "INGLE_INDEX_URL", "INGLE_HUB_URL", "PIP_INDEX_URL")
    environ = {name: value for name, value in os.environ.items() if name in (*kept, "XDG_DATA_HOME", "HOME")}
    return read_settings(environ).settings


@cache
def default_store() -> "ModelStore":
    """The store that `ingle` itself uses, so that weights are pulled once for all checkouts."""
    from ingle.model_store import open_store

    return open_store(default_settings())


def default_models() -> tuple[str, ...]:
    """The models that stand in where a request names none."""
    settings = default_settings()
    return (settings.default_model, settings.default_speech_model)


def _teller(stream: TextIO) -> Callable[["PullProgress"], None]:
    """A line on `stream` for each whole percent of a pull."""
    told = ("", -1)

    def tell(progress: "PullProgress") -> None:
        nonlocal told
        percent = 100 * progress.completed // max(1, progress.total)
        if (progress.file, percent) != told:
            told = (progress.file, percent)
            stream.write(f"{progress.stage} {progress.file} {percent} %\n")

    return tell


@cache
def missing_model(name: str) -> str | None:
    """Pull `name` where it is not installed."""
    store = default_store()
    if any(model.spec.id == name for model in store.installed()):
        return None
    try:
        store.pull(name, _teller(sys.stderr))
    except IngleError as error:
        return f"{name} could not be pulled: {error}"
    return None


def missing_weights(models: Sequence[str]) -> str | None:
    """The first of `models` (the default ones where none is named) that cannot be had."""
    reasons = (missing_model(name) for name in models or default_models())
    return next((reason for reason in reasons if reason), None)


def missing_postgres(host: str = "127.0.0.1", port: int = 5432) -> str | None:
    """Whether the start-up message for user postgres and database test is answered with AuthenticationOk."""
    fields = b"user\0postgres\0database\0test\0\0"
    try:
        with socket.create_connection((host, port), _PATIENCE) as connection:
            connection.settimeout(_PATIENCE)
            connection.sendall(struct.pack("!ii", len(fields) + 8, 196608) + fields)
            answer = connection.recv(9)
    except OSError as error:
        return f"no PostgreSQL at {host}:{port} ({error})"
    return None if answer == b"R" + struct.pack("!ii", 8, 0) else f"PostgreSQL at {host}:{port} refuses database test"


def missing_redis(host: str = "127.0.0.1", port: int = 6379) -> str | None:
    """Whether PING is answered."""
    try:
        with socket.create_connection((host, port), _PATIENCE) as connection:
            connection.settimeout(_PATIENCE)
            connection.sendall(b"PING\r\n")
            answer = connection.recv(7)
    except OSError as error:
        return f"no Redis at {host}:{port} ({error})"
    return None if answer == b"+PONG\r\n" else f"what listens at {host}:{port} is not an open Redis"


def missing_rabbitmq(host: str = "127.0.0.1", port: int = 5672) -> str | None:
    """Whether AMQP's greeting is answered with the first frame of a connection."""
    try:
        with socket.create_connection((host, port), _PATIENCE) as connection:
            connection.settimeout(_PATIENCE)
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            answer = connection.recv(3)
    except OSError as error:
        return f"no RabbitMQ at {host}:{port} ({error})"
    return None if answer == b"\x01\x00\x00" else f"what listens at {host}:{port} is not RabbitMQ"


def missing_browser() -> str | None:
    """Whether a Chromium is on PATH."""
    return None if any(map(shutil.which, BROWSERS)) else f"none of {', '.join(BROWSERS)} is installed"


def missing_gpu() -> str | None:
    """Whether torch can use a CUDA device."""
    import torch

    return None if torch.cuda.is_available() else "torch finds no CUDA device"


def ollama_js_dir() -> Path:
    """Where the official JavaScript client is installed for the tests; outside of every checkout."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "ingle-tests" / f"ollama-js-{OLLAMA_JS}"


def missing_node() -> str | None:
    """Install the official JavaScript client where it is not installed."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return "node and npm are not installed"
    folder = ollama_js_dir()
    if (folder / "node_modules" / "ollama" / "package.json").exists():
        return None
    folder.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--prefix", str(folder), "--no-save", "--no-audit", "--no-fund", f"ollama@{OLLAMA_JS}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return f"npm could not install ollama: {done.stderr.strip()[-200:]}" if done.returncode else None


NEEDS: Mapping[str, Callable[[], str | None]] = {
    "postgres": cache(missing_postgres),
    "redis": cache(missing_redis),
    "rabbitmq": cache(missing_rabbitmq),
    "browser": missing_browser,
    "gpu": cache(missing_gpu),
    "node": cache(missing_node),
}


def required(environ: Mapping[str, str]) -> frozenset[str]:
    """The needs whose absence fails a test instead of skipping it. Raises ValueError for an unknown name."""
    names = frozenset(filter(None, (name.strip() for name in environ.get(REQUIRE, "").split(","))))
    known = {"weights", *NEEDS}
    if unknown := names - known:
        raise ValueError(f"{REQUIRE} names {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    return names


AUDIO = Path(__file__).parent / "data" / "audio"

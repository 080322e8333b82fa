"""The meaning of the markers: a test whose need is not met is skipped with the reason, or fails where
INGLE_TEST_REQUIRE names the need. Needs are looked into before the first test, so no test's time limit counts a pull.
"""

import gc
import logging
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from ingle import environment
from tests import needs

if TYPE_CHECKING:
    from models.store import ModelStore

_REQUIRED = pytest.StashKey[frozenset[str]]()
_UNMET = pytest.StashKey[list[tuple[str, str]]]()


def pytest_configure(config: pytest.Config) -> None:
    environment.prepare()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # So a shell starts what runs in its background, and every program that a test starts would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        config.stash[_REQUIRED] = needs.required(os.environ)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    for item in session.items:
        item.stash[_UNMET] = _unmet(item)
    # Every model that is unloaded collects garbage; what is imported by now is none, and takes a second to walk.
    gc.collect()
    gc.freeze()


def _unmet(item: pytest.Item) -> list[tuple[str, str]]:
    """(need, reason) for each need of `item` that this machine does not meet."""
    unmet = [(name, check()) for name, check in needs.NEEDS.items() if item.get_closest_marker(name)]
    models = [model for marker in item.iter_markers("weights") for model in marker.args or needs.default_models()]
    if models:
        unmet.append(("weights", needs.missing_weights(models)))
    return [(name, reason) for name, reason in unmet if reason]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for need, reason in item.stash[_UNMET]:
        if need in item.config.stash[_REQUIRED]:
            pytest.fail(f"{needs.REQUIRE} names {need}, but {reason}", pytrace=False)
        pytest.skip(f"needs {need}: {reason}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was not run, and why."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reasons[str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)] += 1
    if not reasons:
        terminalreporter.write_line("nothing was skipped")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} skipped: {reason.removeprefix('Skipped: ')}")


@pytest.fixture(scope="session")
def model_store() -> "ModelStore":
    """The default store: tests marked `weights` find their models there."""
    return needs.default_store()


@pytest.fixture(scope="session")
def audio_dir() -> Path:
    """Seven clips of public-domain speech with their transcripts."""
    return needs.AUDIO


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Puts logging back to what it was: commands and brokers configure it for the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)  # and not `root.level`: loggers remember what they are enabled for
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of whoever runs the tests, a data folder and a working directory of the test's own."""
    for name in [name for name in os.environ if name.startswith(("INGLE_", "OLLAMA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("INGLE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WEB_CONCURRENCY", "1")
    monkeypatch.chdir(tmp_path)

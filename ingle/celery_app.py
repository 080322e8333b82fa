"""The Celery application, with the settings of a server: `celery -A ingle.celery_app worker -n llm -Q llm`.

Flower and `celery inspect` import it too, so nothing is loaded before a worker starts.
"""

import os
import sys

import click

from ingle import environment
from ingle.celery_dispatch import queue_options
from ingle.celery_process import CeleryProcess
from ingle.settings import Settings
from ingle.settings_sources import BadSettings, read_settings

environment.prepare()


def _settings() -> Settings:
    found = read_settings(os.environ)
    for warning in found.warnings:
        click.echo(f"ingle: warning: {warning}", err=True)
    return found.settings


def _log_as_set(level: int) -> None:
    """In our form; more than the settings say where Celery's `--loglevel` asks for more."""
    import logging

    from infrastructure.log import configure_logging

    wanted = min(level, logging.getLevelNamesMapping()[_used.log_level.upper()])
    configure_logging(logging.getLevelName(wanted), _used.log_format, sys.stdout)


try:
    _used = _settings()
    _options = queue_options(_used)
except BadSettings as _error:
    # Celery would show a traceback, and of it the wrong end.
    raise SystemExit("\n".join(f"ingle: {problem}" for problem in _error.problems)) from None

from infrastructure.queue.app import celery_app  # noqa: E402 — only now is it known that Celery is there
from infrastructure.queue.worker import host  # noqa: E402

_process = CeleryProcess(_used)
app = celery_app(_options, _process.run_job)
host(app, _process, _log_as_set)

"""`ingle worker`: the worker of a server as a process of its own."""

import sys

import click

from ingle.cli import EXIT_FAILURE, Invocation
from ingle.environment import importing


@click.command("worker")
@click.option("--limit", help="Jobs that run at a time (default: INGLE_WORKER_CLAIM_LIMIT).")
@click.option("--log-level", help="debug, info, warning or error (default: INGLE_LOG_LEVEL).")
@click.pass_obj
def command(invocation: Invocation, limit: str | None, log_level: str | None) -> int:
    """Run jobs of the database until SIGTERM or Ctrl-C, with models of this process's own.

    Jobs at work are finished before the end, for as long as INGLE_DRAIN says; the rest is given back.

    \b
    Example:
      ingle worker --limit 8
    """
    settings = invocation.settings(worker_claim_limit=limit, log_level=log_level)

    with importing():
        import uvloop

        from infrastructure.log import configure_logging
        from ingle.worker_process import work

    configure_logging(settings.log_level, settings.log_format, sys.stdout)
    return 0 if uvloop.run(work(settings)) else EXIT_FAILURE

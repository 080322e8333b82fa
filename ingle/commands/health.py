"""`ingle health`: one question to a running server, for scripts and container health checks."""

import click

from ingle.cli import Invocation
from ingle.remote import Server, address_of


@click.command("health")
@click.option("--server", metavar="URL", help="Server to ask (default: where `ingle serve` would listen).")
@click.pass_obj
def command(invocation: Invocation, server: str | None) -> None:
    """Ask a running server whether it is alive; exit 0 if so, else 1.

    \b
    Examples:
      ingle health
      ingle health --server http://127.0.0.1:9000
    """
    with Server(server or address_of(invocation.settings()), timeout=5.0) as remote:
        click.echo(remote.health())

"""`ingle serve`: the HTTP server, in this process, with its models."""

import os
import socket
import sys

import click

from ingle.cli import EXIT_BAD_SETTINGS, EXIT_FAILURE, Invocation
from ingle.environment import importing

BACKLOG = 2048


@click.command("serve")
@click.option("--host", help="Address to listen on (default: INGLE_HTTP_HOST).")
@click.option("--port", help="Port to listen on; 0 takes a free one (default: INGLE_HTTP_PORT).")
@click.option("--device", help="auto, cpu, cuda or cuda:N (default: INGLE_DEVICE_TYPE).")
@click.option("--preload", metavar="NAMES", help="Models to load at the start, separated by commas.")
@click.option("--log-level", help="debug, info, warning or error (default: INGLE_LOG_LEVEL).")
@click.pass_obj
def command(
    invocation: Invocation,
    host: str | None,
    port: str | None,
    device: str | None,
    preload: str | None,
    log_level: str | None,
) -> int:
    """Serve models over HTTP until SIGTERM or Ctrl-C.

    Work in flight is finished before the end, for as long as INGLE_DRAIN says; a second signal ends it at once.

    \b
    Examples:
      ingle serve
      ingle serve --port 9000 --preload qwen2.5-coder:0.5b,whisper:base
    """
    if os.environ.get("WEB_CONCURRENCY", "1") not in ("", "1"):
        click.echo(
            "ingle: WEB_CONCURRENCY must be 1, because one process owns the models. For more, run several "
            "`ingle serve` on different ports behind a proxy, one for each GPU or CPU socket.",
            err=True,
        )
        return EXIT_BAD_SETTINGS
    settings = invocation.settings(
        http_host=host, http_port=port, device_type=device, preload_models=preload, log_level=log_level
    )
    try:
        listener = listen(settings.http_host, settings.http_port)
    except OSError as error:
        where = f"{settings.http_host}:{settings.http_port}"
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        raise click.ClickException(f"cannot listen on {where} ({reason}): choose with --host and --port") from None
    with listener:
        with importing():
            import uvloop

            from infrastructure.log import configure_logging
            from ingle.server import serve

        configure_logging(settings.log_level, settings.log_format, sys.stdout)
        return 0 if uvloop.run(serve(settings, listener)) else EXIT_FAILURE


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family, backlog=BACKLOG)

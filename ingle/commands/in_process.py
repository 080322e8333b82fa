"""An application for the length of one command."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click

from ingle.cli import EXIT_INTERRUPTED
from ingle.environment import importing
from ingle.settings import Settings

if TYPE_CHECKING:  # at run time it would load torch before anybody asked for it
    from ingle.bootstrap import Application


@asynccontextmanager
async def application(settings: Settings) -> AsyncGenerator["Application", None]:
    """Build, lend, close. Interrupted, the process ends at once with 130.

    A load that has begun cannot be broken off, and its thread would hold up the end of the process until it is
    done; what it leaves on disk is made to be left at any moment.
    """
    with importing():
        from ingle.bootstrap import build

    built = build(settings)
    try:
        yield built
    except asyncio.CancelledError:
        click.echo("\ninterrupted", err=True)
        sys.stdout.flush()
        os._exit(EXIT_INTERRUPTED)
    finally:
        await built.close()

"""`ingle config`: the settings, where they came from, and the page about them."""

from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from ingle.cli import Invocation
from ingle.commands.terminal import output
from ingle.external_models import external_models
from ingle.keys import keys_of
from ingle.settings import Settings
from ingle.settings_docs import render, written
from ingle.settings_sources import masked

PAGE = Path("docs/settings.md")


@click.group("config")
def command() -> None:
    """Show, check and document the settings.

    \b
    Examples:
      ingle config show
      INGLE_HTTP_PORT=9000 ingle config check
    """


@command.command()
@click.pass_obj
def show(invocation: Invocation) -> None:
    """Print every setting, its value, and where it came from."""
    found = invocation.read()
    table = Table("setting", "value", "from", box=None, pad_edge=False)
    for name, field in Settings.model_fields.items():
        value = str(masked(written(getattr(found.settings, name), field)))
        table.add_row(name, Text(value), Text(found.origins.get(name, "default")))
    output().print(table)


@command.command()
@click.pass_obj
def check(invocation: Invocation) -> None:
    """Say what is wrong with the settings; exit 78 if anything is."""
    settings = invocation.settings()
    external_models(settings)
    keys_of(settings)
    click.echo("the settings are good")


@command.command()
@click.option("--write", is_flag=True, help=f"Write {PAGE} in the working directory.")
@click.option("--check", "only_check", is_flag=True, help=f"Exit 1 if {PAGE} is not current.")
def docs(write: bool, only_check: bool) -> None:
    """Print the page about the settings, made from the settings class."""
    page = render()
    if write:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page, encoding="utf-8")
    elif only_check:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
            raise click.ClickException(f"{PAGE} is not current: run `make docs`")
    else:
        click.echo(page, nl=False)

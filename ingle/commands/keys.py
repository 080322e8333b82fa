"""`ingle keys`: make, list and revoke API keys, in the file that the server reads."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.table import Table

from domain.access import Scope
from domain.key_ring import KEY_PREFIX, BadKey, digest_of, line_of, new_caller, parse_line
from infrastructure.key_file import change_keys, read_keys
from ingle.cli import Invocation
from ingle.commands.terminal import messages, output

_KEY_BYTES = 32
_FILE = click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file of keys (default: INGLE_API_KEYS_FILE).",
)


@click.group("keys")
def command() -> None:
    """Make, list and revoke the keys that open a server.

    \b
    Examples:
      ingle keys new admin --scope admin --file keys.txt
      ingle keys new telephony --scope infer,jobs --owner telephony
      ingle keys revoke telephony
    """


@command.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, required=True, help=f"Of {', '.join(Scope)}; several with commas.")
@click.option("--owner", "owners", multiple=True, help="Bind jobs and files to this owner; may be repeated.")
@click.option("--profile", "profiles", multiple=True, help="Bind a worker to this model profile; may be repeated.")
@_FILE
@click.pass_obj
def new(
    invocation: Invocation,
    name: str,
    scopes: tuple[str, ...],
    owners: tuple[str, ...],
    profiles: tuple[str, ...],
    file: Path | None,
) -> None:
    """Make a key and print it: this once, for only its hash is kept.

    Without a file the line to store is printed beside it.
    """
    key = KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    path = file or invocation.settings().api_keys_file
    with _refusals():
        line = line_of(new_caller(name, _split(scopes), _split(owners), _split(profiles)), digest_of(key))
        if path is not None:
            change_keys(path, lambda lines: [*lines, line])
    click.echo(key)
    if path is None:
        messages().print(f"store this line in the file that INGLE_API_KEYS_FILE names, or in INGLE_API_KEYS:\n{line}")
    else:
        messages().print(f"stored in {path}: a running server knows it within moments")


@command.command("list")
@_FILE
@click.pass_obj
def list_(invocation: Invocation, file: Path | None) -> None:
    """List names, scopes and what they are bound to."""
    settings = invocation.settings()
    path = file or settings.api_keys_file
    with _refusals():
        stored = read_keys(path).keys if path else ()
    found = (*settings.api_keys.keys, *stored)
    if not found:
        messages().print("there are no keys, so anybody who reaches the server may use it: see `ingle keys new --help`")
        return
    table = Table("name", "scopes", "owners", "profiles", box=None, pad_edge=False)
    for key in found:
        caller = key.caller
        cells = ((scope for scope in Scope if scope in caller.scopes), sorted(caller.owners), sorted(caller.profiles))
        table.add_row(caller.name, *(",".join(cell) or "-" for cell in cells))
    output().print(table)


@command.command()
@click.argument("name")
@_FILE
@click.pass_obj
def revoke(invocation: Invocation, name: str, file: Path | None) -> None:
    """Take a key out of the file; a running server refuses it within moments."""
    path = file or invocation.settings().api_keys_file
    if path is None:
        raise click.UsageError("name the file with --file or INGLE_API_KEYS_FILE")
    with _refusals():
        if all(key.caller.name != name for key in read_keys(path).keys):
            raise BadKey(f"there is no key named {name} in {path}: see `ingle keys list`")
        change_keys(path, lambda lines: [line for line in lines if _name_in(line) != name])
    click.echo(f"revoked {name}")


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except BadKey as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from None


def _split(texts: Sequence[str]) -> Sequence[str]:
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _name_in(line: str) -> str:
    stored = line.partition("#")[0].strip()
    return parse_line(stored).caller.name if stored else ""

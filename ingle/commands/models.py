"""`ingle models`: what is installed, what can be, and getting from one to the other."""

import click
from rich.filesize import decimal
from rich.table import Table

from domain.errors import ModelNotFound
from domain.model import ModelSpec
from ingle.cli import Invocation
from ingle.commands.terminal import messages, output


@click.group("models")
def command() -> None:
    """List, pull and remove models.

    \b
    Examples:
      ingle models list --all
      ingle models pull qwen2.5-coder:0.5b whisper:base
      ingle models show whisper:base
      ingle models rm smollm2:135m
    """


@command.command("list")
@click.option("--all", "everything", is_flag=True, help="Also the models that can be pulled.")
@click.pass_obj
def list_(invocation: Invocation, everything: bool) -> None:
    """List the installed models."""
    from ingle.model_store import open_store

    store = open_store(invocation.settings())
    installed = {model.spec.id: model.spec for model in store.installed()}
    specs = [*installed.values()]
    if everything:
        specs += [entry.spec for entry in store.known() if entry.spec.id not in installed]
    if not specs:
        messages().print("no model is installed: see `ingle models list --all`, then `ingle models pull NAME`")
        return
    table = Table("name", "task", "size", "state", "title", box=None, pad_edge=False)
    for spec in sorted(specs, key=lambda spec: (spec.id not in installed, spec.task, spec.id)):
        table.add_row(spec.id, spec.task, _size(spec), "installed" if spec.id in installed else "-", spec.title)
    output().print(table)


def _size(spec: ModelSpec) -> str:
    return decimal(spec.size_bytes) if spec.size_bytes else "-"


@command.command()
@click.argument("name")
@click.pass_obj
def show(invocation: Invocation, name: str) -> None:
    """Print what is known of a model."""
    from ingle.model_store import open_store

    store = open_store(invocation.settings())
    try:
        model = store.find(name)
        spec, files = model.spec, [(file.name, decimal(file.size), file.sha256) for file in model.files]
    except ModelNotFound:
        entry = next((entry for entry in store.known() if name.lower() in (entry.spec.id, *entry.aliases)), None)
        if entry is None:
            raise
        spec, files = entry.spec, [(file.name, decimal(file.size), file.sha256) for file in entry.artefacts[0].files]
        model = None
    facts = Table(box=None, pad_edge=False, show_header=False)
    for fact, value in (
        ("name", spec.id),
        ("title", spec.title),
        ("task", spec.task),
        ("format", spec.format),
        ("family", spec.family or "-"),
        ("context", f"{spec.context_length} tokens" if spec.context_length else "-"),
        ("size", _size(spec)),
        ("licence", spec.licence or "-"),
        ("hub id", spec.hub_id or "-"),
        ("installed", str(model.directory) if model else f"no: run `ingle models pull {spec.id}`"),
    ):
        facts.add_row(fact, value)
    for name, size, sha256 in files:
        facts.add_row("file", f"{name}  {size}  {(sha256 and f'sha256:{sha256}') or 'unchecked'}")
    output().print(facts)


@command.command()
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def pull(invocation: Invocation, names: tuple[str, ...]) -> None:
    """Fetch models, verify them, and make them ready to load.

    A pull that was interrupted goes on where it stopped.
    """
    from ingle.commands.pulling import pull_with_progress
    from ingle.model_store import open_store

    store = open_store(invocation.settings())
    for name in names:
        model = pull_with_progress(store, name)
        messages().print(f"{model.spec.id} is installed ({_size(model.spec)})")


@command.command()
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def rm(invocation: Invocation, names: tuple[str, ...]) -> None:
    """Delete models from this machine's disk."""
    from ingle.model_store import open_store

    store = open_store(invocation.settings())
    for name in names:
        removed = store.remove(name)
        messages().print(f"{removed.spec.id} is removed ({_size(removed.spec)} freed)")

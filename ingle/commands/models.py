"""`ingle models`: what is installed, what can be, and getting from one to the other."""

from collections.abc import Mapping, Sequence
from typing import TextIO

import click
from rich.filesize import decimal
from rich.table import Table

from domain.errors import ModelNotFound
from domain.library import NewModel
from domain.model import ModelSpec
from domain.preset import Preset
from ingle.cli import Invocation
from ingle.commands.terminal import messages, output


@click.group("models")
def command() -> None:
    """List, pull, copy, make and remove models.

    \b
    Examples:
      ingle models list --all
      ingle models pull qwen2.5-coder:0.5b whisper:base
      ingle models show whisper:base
      ingle models cp whisper:base telephony
      ingle models create pirate --from qwen2.5-coder:0.5b --system "You are a pirate." --parameter temperature=1.2
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
@click.option("--verify", is_flag=True, help="Hash every file that is here already; fetch those that are damaged.")
@click.pass_obj
def pull(invocation: Invocation, names: tuple[str, ...], verify: bool) -> None:
    """Fetch models, verify them, and make them ready to load.

    A pull that was interrupted goes on where it stopped.

    \b
    Examples:
      ingle pull qwen2.5-coder:0.5b whisper:base
      ingle pull hf.co/Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF:q8_0
      ingle pull --verify whisper:base
    """
    from ingle.commands.pulling import pull_with_progress
    from ingle.model_store import open_store

    store = open_store(invocation.settings())
    for name in names:
        model = pull_with_progress(store, name, afresh=verify)
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
        is_shared = any(model.digest == removed.digest for model in store.installed())
        freed = "its files stay, another name uses them" if is_shared else f"{_size(removed.spec)} freed"
        messages().print(f"{removed.spec.id} is removed ({freed})")


@command.command()
@click.argument("source")
@click.argument("destination")
@click.pass_obj
def cp(invocation: Invocation, source: str, destination: str) -> None:
    """Give a model a second name; the files are shared."""
    from ingle.model_store import open_store

    copied = open_store(invocation.settings()).copy(source, destination)
    messages().print(f"{copied.spec.id} is another name of {copied.made_from}")


@command.command()
@click.argument("name")
@click.option("--from", "base", required=True, metavar="MODEL", help="The model whose weights it shares.")
@click.option("--system", help="Its system text.")
@click.option("--template", type=click.File(), help="A file with its chat template in Jinja.")
@click.option("--licence", type=click.File(), help="A file with its licence.")
@click.option("--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="A default; stop may be repeated.")
@click.pass_obj
def create(
    invocation: Invocation,
    name: str,
    base: str,
    system: str | None,
    template: TextIO | None,
    licence: TextIO | None,
    parameters: tuple[str, ...],
) -> None:
    """Make a model with a system text and parameters of its own out of another.

    \b
    Example:
      ingle models create brief --from qwen2.5-coder:0.5b --system "Answer in one line." --parameter num_predict=64
    """
    from ingle.model_store import open_store
    from models.preset_parameters import checked_parameters

    preset = Preset(
        system=system,
        parameters=checked_parameters(_parameters(parameters)),
        template=template.read() if template else "",
    )
    wish = NewModel(name, base, preset, licence.read() if licence else "")
    made = open_store(invocation.settings()).create(wish)
    messages().print(f"{made.spec.id} is made from {made.spec.preset.parent}")


def _parameters(given: Sequence[str]) -> Mapping[str, object]:
    """`name=value` pairs; numbers become numbers, and what is given for `stop` a list."""
    table: dict[str, object] = {}
    stops: list[str] = []
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"'{pair}' is not NAME=VALUE")
        if name == "stop":
            stops.append(value)
        else:
            table[name] = _number(value)
    return {**table, "stop": stops} if stops else table


def _number(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text

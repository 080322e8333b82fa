"""The command `ingle`: reads the settings, runs a subcommand, turns failures into one line and an exit code."""

import importlib
import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from domain.errors import IngleError
from infrastructure.log import configure_logging
from ingle import environment
from ingle.settings import Settings
from ingle.settings_sources import BadSettings, ReadSettings, read_settings

EXIT_FAILURE = 1
EXIT_BAD_SETTINGS = 78
EXIT_INTERRUPTED = 130

COMMANDS: Mapping[str, str] = {
    "serve": "Serve models over HTTP.",
    "generate": "Write text with a model.",
    "transcribe": "Write down what is said in recordings.",
    "pull": "Fetch models.",
    "models": "List, pull, copy, make and remove models.",
    "jobs": "Submit, list, show, retry and cancel jobs.",
    "keys": "Make, list and revoke API keys.",
    "worker": "Run jobs without serving anything.",
    "doctor": "Look at this machine and say what is missing.",
    "config": "Show, check and document the settings.",
    "health": "Ask a running server whether it is alive.",
    "demo": "Show a translation and a transcript, end to end.",
}


class Invocation:
    """What all subcommands share. The settings are read when one asks for them, so that `--help` always works."""

    def __init__(self, config: Path | None) -> None:
        self._config = config

    def read(self, **command_line: object) -> ReadSettings:
        """Every setting with where it came from; warnings go to standard error. Raises BadSettings."""
        found = read_settings(os.environ, command_line=command_line, config=self._config)
        for warning in found.warnings:
            click.echo(f"ingle: warning: {warning}", err=True)
        return found

    def settings(self, **command_line: object) -> Settings:
        """The settings, where those named here and not None outrank every other source."""
        return self.read(**command_line).settings


class _Commands(click.Group):
    """Imports the module of a subcommand when it is run or asked for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"ingle.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("ingle"), prog_name="ingle")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file with settings; outranks INGLE_CONFIG.")
@click.option("-v", "--verbose", is_flag=True, help="Show what happens inside on standard error.")
@click.pass_context
def cli(ctx: click.Context, config: Path | None, verbose: bool) -> None:
    """Text, speech and embedding models in one process, served to other programs.

    \b
    Examples:
      ingle models pull qwen2.5-coder:0.5b
      ingle generate "Translate to German: good morning"
      ingle transcribe talk.mp3 --format srt --output talk.srt
      ingle serve --port 8080

    Settings are read from the environment, .env and ingle.toml: see `ingle config show`.
    """
    # A failure is told once, in one line, by `main`; `serve` logs as its settings say.
    configure_logging("info" if verbose else "critical", "console", sys.stderr)
    ctx.obj = Invocation(config)


def main(arguments: list[str] | None = None) -> None:
    """Run `ingle` and end the process: 0 done, 1 failed, 2 wrong use, 78 bad settings, 130 interrupted."""
    environment.prepare()
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        result: Any = cli.main(arguments, prog_name="ingle", standalone_mode=False)
    except BadSettings as error:
        for problem in error.problems:
            click.echo(f"ingle: {problem}", err=True)
        return EXIT_BAD_SETTINGS
    except IngleError as error:
        advice = ": see `ingle models list --all`" if str(error).endswith("not found") else ""
        click.echo(f"ingle: {error}{advice}", err=True)
        return EXIT_FAILURE
    except click.UsageError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"ingle: {error.format_message()}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("\ninterrupted", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    return result if isinstance(result, int) else 0

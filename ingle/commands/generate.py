"""`ingle generate`: one prompt, one answer, written while it comes."""

import asyncio
import itertools
import sys
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import click

from api.options import Options
from application.generate_text import GenerateText, GenerationStarted
from domain.errors import GenerationFailed
from domain.generation import Finish, GenerationRequest, SamplingParams
from domain.prompt import Chat, Message, Prompt, RawText, Role
from ingle.cli import Invocation
from ingle.commands.in_process import application
from ingle.commands.terminal import messages, status
from ingle.remote import RemoteFailed, Server
from ingle.settings import Settings

# What `/generate` gives to a request that asks for nothing, so that both ways give the same.
_DEFAULTS = Options()


@click.command("generate")
@click.argument("prompt")
@click.option("--model", help="Model to ask (default: INGLE_DEFAULT_MODEL).")
@click.option("--system", help="Instructions that go before the prompt.")
@click.option("--temperature", type=float, help=f"0 is greedy, up to 2 (default: {_DEFAULTS.temperature}).")
@click.option("--top-k", type=int, help=f"Choose among so many tokens, 0 = all (default: {_DEFAULTS.top_k}).")
@click.option("--top-p", type=float, help=f"Choose within this share of probability (default: {_DEFAULTS.top_p}).")
@click.option("--max-tokens", type=int, help="Write at most so many tokens (default: what the context holds).")
@click.option("--seed", type=int, help="Makes the same request give the same answer.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be given several times.")
@click.option("--raw", is_flag=True, help="Give the prompt to the model as it is, without its chat template.")
@click.option("--device", help="auto, cpu, cuda or cuda:N (default: INGLE_DEVICE_TYPE).")
@click.option("--server", metavar="URL", help="Let a running server do it instead of loading the model here.")
@click.option("--timings", is_flag=True, help="Say on standard error how long it took.")
@click.pass_obj
def command(
    invocation: Invocation,
    /,
    prompt: str,
    model: str | None,
    system: str | None,
    raw: bool,
    device: str | None,
    server: str | None,
    timings: bool,
    stop: tuple[str, ...],
    **sampling: Any,
) -> None:
    """Write text with a model. PROMPT - reads the prompt from standard input.

    \b
    Examples:
      ingle generate "Translate to German: good morning"
      ingle generate --max-tokens 200 --temperature 0 - < question.txt
      ingle generate --server http://127.0.0.1:8080 "Who are you?"
    """
    if server and device:
        raise click.UsageError("--device is the server's business: leave it out with --server")
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text.strip():
        raise click.UsageError("the prompt is empty")
    given = {name: value for name, value in sampling.items() if value is not None} | ({"stop": stop} if stop else {})
    settings = invocation.settings(device_type=device)
    if server:
        finish = _ask(Server(server, key=settings.api_key), _body(text, model, system, raw, given))
    else:
        request = GenerationRequest(_prompt(text, system, raw), _params(given, settings))
        finish = asyncio.run(_generate(settings, model or settings.default_model, request))
    click.echo()
    if timings:
        messages().print(finish)


def _prompt(text: str, system: str | None, raw: bool) -> Prompt:
    if raw:
        return RawText(text)
    instructions = (Message(Role.SYSTEM, system),) if system is not None else ()
    return Chat((*instructions, Message(Role.USER, text)))


def _params(given: Mapping[str, Any], settings: Settings) -> SamplingParams:
    wanted = {name: getattr(_DEFAULTS, name) for name in ("temperature", "top_k", "top_p")} | dict(given)
    if settings.max_new_tokens is not None:
        wanted["max_tokens"] = min(wanted.get("max_tokens", settings.max_new_tokens), settings.max_new_tokens)
    return SamplingParams(**wanted)


# -- here ---------------------------------------------------------------------------------------------------


async def _generate(settings: Settings, model: str, request: GenerationRequest) -> str:
    async with application(settings) as built:
        return await write(built.generate, model, request)


async def write(generate: GenerateText, model: str, request: GenerationRequest) -> str:
    """Write the answer to standard output piece by piece; returns its timings in words.

    Cancelling the task that awaits this ends the work.
    """
    async with aclosing(generate.stream(model, request)) as events:
        with status(f"loading {model}"):
            await anext(events)
        async for event in events:
            if isinstance(event, GenerationStarted):
                continue
            click.echo(event.text, nl=False)
            if event.finish is not None:
                return described(event.finish)
    raise GenerationFailed("the model's stream ended without saying why")


def described(finish: Finish) -> str:
    """The figures of an answer in one line."""
    times = finish.timings
    rate = finish.usage.completion_tokens / times.decode if times.decode else 0.0
    return (
        f"{finish.usage.prompt_tokens} tokens read in {times.prompt:.2f} s, {finish.usage.completion_tokens} written "
        f"in {times.decode:.2f} s ({rate:.1f} a second), loaded in {times.load:.2f} s, ended by {finish.reason}"
    )


# -- by a server --------------------------------------------------------------------------------------------


def _body(text: str, model: str | None, system: str | None, raw: bool, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request as `/generate` takes it; what was not asked for stays the server's choice."""
    wished = {"model": model, "system": system, "raw": raw or None}
    return {"prompt": text, **given, **{name: value for name, value in wished.items() if value is not None}}


def _ask(server: Server, body: Mapping[str, Any]) -> str:
    """Write the server's answer; returns its timings in words."""
    with server as remote:
        records = remote.generate(body)
        with status("waiting for the server"):
            first = next(records)
        for record in itertools.chain([first], records):
            click.echo(record["response"], nl=False)
            if record["done"]:
                times = record["timings"]
                return (
                    f"{record['prompt_eval_count']} tokens read in {times['prompt_ms'] / 1000:.2f} s, "
                    f"{record['eval_count']} written in {times['eval_ms'] / 1000:.2f} s "
                    f"({times['tokens_per_second']:.1f} a second), loaded in {times['load_ms'] / 1000:.2f} s, "
                    f"ended by {record['done_reason']}"
                )
    raise RemoteFailed("the server's answer ended without saying why")

"""`ingle jobs`: jobs of a running server."""

import json
from collections.abc import Mapping
from typing import Any, TextIO

import click
from rich.table import Table

from ingle.cli import Invocation
from ingle.commands.terminal import output
from ingle.remote import Server, address_of

_URL = click.option("--url", help="Address of the server (default: where `ingle serve` listens).")


@click.group("jobs")
def command() -> None:
    """Submit, list, show, retry and cancel jobs of a running server.

    \b
    Examples:
      ingle jobs submit llm_chat --input '{"user": "hi"}' --wait
      ingle jobs list --status failed
      ingle jobs retry 01991f0e-6a40-7c31-9d55-0c1f6f2f7a10
    """


def _server(invocation: Invocation, url: str | None) -> Server:
    settings = invocation.settings()
    return Server(url or address_of(settings), key=settings.api_key)


@command.command()
@click.argument("task_type")
@click.option("--input", "text", help="The input as a JSON object.")
@click.option("--file", "file", type=click.File(encoding="utf-8"), help="A file that holds the input; - is stdin.")
@click.option("--profile", help="The model that runs it (default: that of the type).")
@click.option("--owner", default="cli", show_default=True, help="On whose behalf.")
@click.option("--priority", type=click.IntRange(-10, 10), default=0, show_default=True)
@click.option("--key", help="An idempotency key: the same job is submitted once, however often this is run.")
@click.option("--wait", is_flag=True, help="Wait for the end, print the job then, and fail if it did.")
@_URL
@click.pass_obj
def submit(
    invocation: Invocation,
    task_type: str,
    text: str | None,
    file: TextIO | None,
    profile: str | None,
    owner: str,
    priority: int,
    key: str | None,
    wait: bool,
    url: str | None,
) -> int:
    """Submit a job and print its id."""
    if (text is None) == (file is None):
        raise click.UsageError("give the input with --input or with --file")
    try:
        given = json.loads(text if file is None else file.read())  # type: ignore[arg-type]
    except ValueError as error:
        raise click.UsageError(f"the input is not JSON: {error}") from None
    body: dict[str, Any] = {"owner_service": owner, "task_type": task_type, "input": given, "priority": priority}
    body |= {name: value for name, value in (("model_profile", profile), ("idempotency_key", key)) if value}
    with _server(invocation, url) as server:
        job = server.call("POST", "/api/v1/jobs", body)
        if not wait:
            click.echo(job["id"])
            return 0
        while job["finished_at"] is None:
            job = server.call("GET", f"/api/v1/jobs/{job['id']}?wait=30")
    _print(job)
    return 0 if job["status"] == "completed" else 1


@command.command("list")
@click.option("--status", "statuses", multiple=True, help="Only jobs of this status; may be repeated.")
@click.option("--owner", help="Only jobs of this owner.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@_URL
@click.pass_obj
def list_(invocation: Invocation, statuses: tuple[str, ...], owner: str | None, limit: int, url: str | None) -> None:
    """List jobs, newest first."""
    parameters: dict[str, Any] = {"limit": limit, "status": list(statuses)}
    if owner is not None:
        parameters["owner_service"] = owner
    with _server(invocation, url) as server:
        jobs = server.call("GET", "/api/v1/jobs", parameters=parameters)["jobs"]
    table = Table("id", "type", "profile", "status", "attempt", "error", "created", box=None, pad_edge=False)
    for job in jobs:
        cells = (job["task_type"], job["model_profile"], job["phase"] or job["status"], str(job["attempt"]))
        table.add_row(job["id"], *cells, job["error_code"] or "-", job["created_at"])
    output().print(table)


@command.command()
@click.argument("job_id")
@_URL
@click.pass_obj
def show(invocation: Invocation, job_id: str, url: str | None) -> None:
    """Print a job with its attempts, as JSON."""
    with _server(invocation, url) as server:
        _print(server.call("GET", f"/api/v1/jobs/{job_id}?include=attempts"))


@command.command()
@click.argument("job_ids", nargs=-1, required=True)
@_URL
@click.pass_obj
def retry(invocation: Invocation, job_ids: tuple[str, ...], url: str | None) -> None:
    """Run failed or cancelled jobs again from the start."""
    _change(invocation, url, job_ids, "retry")


@command.command()
@click.argument("job_ids", nargs=-1, required=True)
@_URL
@click.pass_obj
def cancel(invocation: Invocation, job_ids: tuple[str, ...], url: str | None) -> None:
    """Cancel jobs; one that is running ends within moments."""
    _change(invocation, url, job_ids, "cancel")


@command.command()
@_URL
@click.pass_obj
def stats(invocation: Invocation, url: str | None) -> None:
    """Print the figures of the queue, as JSON."""
    with _server(invocation, url) as server:
        _print(server.call("GET", "/api/v1/stats"))


def _change(invocation: Invocation, url: str | None, job_ids: tuple[str, ...], verb: str) -> None:
    body = {"force": False} if verb == "retry" else {}
    with _server(invocation, url) as server:
        for job_id in job_ids:
            job = server.call("POST", f"/api/v1/jobs/{job_id}/{verb}", body)
            click.echo(f"{job['id']} {job['phase'] or job['status']}")


def _print(document: Mapping[str, Any]) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))

"""`ingle demo`: what Ingle is for, shown end to end: pull, serve, translate, write down a clip."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from ingle.cli import Invocation
from ingle.commands.terminal import output, status
from ingle.remote import RemoteFailed, Server
from ingle.settings import Settings

SENTENCE = "Good morning, how are you today?"
CLIP = Path(__file__).parents[2] / "tests" / "data" / "audio" / "jfk.wav"
PATIENCE = 120.0


@click.command("demo")
@click.option("--audio", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Another recording.")
@click.option("--sentence", default=SENTENCE, show_default=True, help="Another sentence to translate.")
@click.pass_obj
def command(invocation: Invocation, audio: Path | None, sentence: str) -> None:
    """Pull the default models, start a server, translate a sentence and write down a clip, with timings.

    \b
    Example:
      ingle demo --audio talk.mp3
    """
    clip = audio or CLIP
    if not clip.exists():
        raise click.ClickException(
            "the clip of the demo lies in Ingle's repository: name a recording with --audio FILE"
        )
    settings = invocation.settings()
    started_at = time.monotonic()
    _pull(settings)
    with running_server() as url, Server(url, key=settings.api_key) as server:
        output().print(f"Ingle serves at {url}")
        _translate(server, settings.default_model, sentence)
        _write_down(server, settings.default_speech_model, clip)
    output().print(f"\nAll of it took {time.monotonic() - started_at:.1f} s.")


def _pull(settings: Settings) -> None:
    from ingle.commands.pulling import pull_with_progress
    from ingle.model_store import open_store

    store = open_store(settings)
    installed = {model.spec.id for model in store.installed()}
    for name in (settings.default_model, settings.default_speech_model):
        if name not in installed:
            pull_with_progress(store, name)


def _translate(server: Server, model: str, sentence: str) -> None:
    body = {
        "model": model,
        "prompt": f"Translate into French, and write nothing but the translation: {sentence}",
        "temperature": 0,
        "max_tokens": 64,
    }
    started_at = time.monotonic()
    with status(f"{model} is loading and translating"):
        records = list(server.generate(body))
    text = "".join(record["response"] for record in records).strip()
    if not text:
        raise RemoteFailed(f"{model} translated the sentence into nothing")
    times = records[-1]["timings"]
    output().print(
        f"\n{model}, POST /generate\n  {sentence}\n  {text}\n"
        f"  {time.monotonic() - started_at:.2f} s: load {times['load_ms'] / 1000:.2f} s, "
        f"prompt {times['prompt_ms'] / 1000:.2f} s, answer {times['eval_ms'] / 1000:.2f} s "
        f"({times['tokens_per_second']:.0f} tokens a second)"
    )


def _write_down(server: Server, model: str, clip: Path) -> None:
    started_at = time.monotonic()
    with status(f"{model} is loading and listening"):
        answer = json.loads(server.transcribe(clip, {"model": model}))
    if not answer["text"]:
        raise RemoteFailed(f"{model} heard nothing in {clip.name}")
    output().print(
        f"\n{model}, POST /transcribe\n  {clip.name}, {answer['duration']:.1f} s, {answer['language']}\n"
        f"  {answer['text']}\n"
        f"  {time.monotonic() - started_at:.2f} s: listening {answer['processing_time']:.2f} s, the rest is the load"
    )


@contextmanager
def running_server() -> Iterator[str]:
    """`ingle serve` as a child on a free port, for as long as the block runs; gives its URL.

    Raises RemoteFailed with the end of its log where it does not start or does not stop cleanly.
    """
    environ = {**os.environ, "INGLE_HTTP_HOST": "127.0.0.1", "INGLE_HTTP_PORT": "0", "INGLE_LOG_FORMAT": "json"}
    environ["INGLE_LOG_LEVEL"] = "info"
    with tempfile.TemporaryDirectory(prefix="ingle-demo-") as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as file:
            child = subprocess.Popen([sys.executable, "-m", "ingle", "serve"], env=environ, stdout=file, stderr=file)
        try:
            with status("the server is starting"):
                url = _wait_for_url(child, log)
            yield url
        finally:
            child.terminate()
            try:
                code = child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()
                code = child.wait()
        if code != 0:
            raise RemoteFailed(f"the server ended with exit code {code}:\n{_end_of(log)}")


def _wait_for_url(child: "subprocess.Popen[bytes]", log: Path) -> str:
    """The address in the log line with which the server says that it serves."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and child.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines(keepends=True):
            record = json.loads(line) if line.startswith("{") and line.endswith("}\n") else {}
            if record.get("event") == "serving":
                return str(record["url"])
        time.sleep(0.05)
    raise RemoteFailed(f"the server did not start:\n{_end_of(log)}")


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8").splitlines()[-20:])

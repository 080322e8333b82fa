"""`ingle transcribe`: recordings in, text or subtitles out."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import click
from rich.progress import Progress

from application.transcribe_audio import TranscribeAudio
from domain.errors import AudioRefused, GenerationFailed, InvalidRequest
from domain.subtitles import SubtitleFormat
from domain.transcription import Progress as Heard
from domain.transcription import SpeechTask, Transcript, TranscriptionRequest
from ingle.cli import Invocation
from ingle.commands.in_process import application
from ingle.commands.terminal import second_progress, status
from ingle.remote import RemoteFailed, Server
from ingle.settings import Settings

JSON = "json"
FORMATS = (*(form.value for form in SubtitleFormat), JSON)
_SUFFIXES = {SubtitleFormat.TEXT.value: "txt"}

Deliver = Callable[[Path, str], None]


@click.command("transcribe")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", help="Speech model (default: INGLE_DEFAULT_SPEECH_MODEL).")
@click.option("--language", help="What is spoken, as in `en` (default: found out from the sound).")
@click.option("--translate", is_flag=True, help="Write in English whatever is spoken.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--word-timestamps", is_flag=True, help="Time every word; shown by --format json.")
@click.option("--prompt", help="Words and names that the recording may hold, spelled right.")
@click.option("--beam-size", type=int, help="1 to 10; more is slower and a little better (default: 1).")
@click.option("--output", "target", type=click.Path(path_type=Path), help="File, or folder if there are several FILEs.")
@click.option("--device", help="auto, cpu, cuda or cuda:N (default: INGLE_DEVICE_TYPE).")
@click.option("--server", metavar="URL", help="Let a running server do it instead of loading the model here.")
@click.pass_obj
def command(
    invocation: Invocation,
    files: tuple[Path, ...],
    model: str | None,
    language: str | None,
    translate: bool,
    form: str,
    word_timestamps: bool,
    prompt: str | None,
    beam_size: int | None,
    target: Path | None,
    device: str | None,
    server: str | None,
) -> None:
    """Write down what is said in recordings: the text on standard output, progress on standard error.

    \b
    Examples:
      ingle transcribe talk.mp3
      ingle transcribe talk.mp3 --format srt --output talk.srt
      ingle transcribe *.wav --format vtt --output subtitles/
    """
    if server and device:
        raise click.UsageError("--device is the server's business: leave it out with --server")
    if target is not None and len(files) > 1:
        target.mkdir(parents=True, exist_ok=True)
    settings = invocation.settings(device_type=device)
    several = len(files) > 1

    def deliver(file: Path, text: str) -> None:
        _deliver(text if text.endswith("\n") else text + "\n", file, target, form, several=several)

    wishes = {
        "model": model,
        "language": language,
        "task": SpeechTask.TRANSLATE.value if translate else None,
        "prompt": prompt,
        "beam_size": beam_size,
        "response_format": form,
        "include_segments": "true",
        "word_timestamps": "true" if word_timestamps else None,
    }
    options = {name: str(value) for name, value in wishes.items() if value is not None}
    if server:
        failed = _ask(server, files, options, deliver)
    else:
        failed = asyncio.run(_transcribe(settings, files, options, deliver))
    if failed:
        raise click.ClickException(f"{failed} of {len(files)} recordings could not be written down")


def _deliver(text: str, file: Path, target: Path | None, form: str, *, several: bool) -> None:
    if target is None:
        if several:
            click.echo(f"==> {file} <==")
        click.echo(text, nl=False)
        return
    path = target / f"{file.stem}.{_SUFFIXES.get(form, form)}" if several else target
    path.write_text(text, encoding="utf-8")


def _tell(file: Path, error: Exception) -> None:
    click.echo(f"ingle: {file}: {error}", err=True)


# -- here ---------------------------------------------------------------------------------------------------


async def _transcribe(settings: Settings, files: Sequence[Path], options: Mapping[str, str], deliver: Deliver) -> int:
    """Transcribe `files` one after the other; returns how many failed."""
    async with application(settings) as built:
        return await write_down(built.transcribe, settings, files, options, deliver)


async def write_down(
    transcribe: TranscribeAudio,
    settings: Settings,
    files: Sequence[Path],
    options: Mapping[str, str],
    deliver: Deliver,
) -> int:
    """Deliver what is said in each file; a recording that is refused does not keep the next from being heard.

    `options` are those of `/transcribe`, so that both ways give the same.
    """
    from api.native.transcribe_body import BEAM_SIZES, parse_options
    from api.native.transcripts import content_of

    wanted = parse_options((), [*options.items()])
    request = wanted.request(beam_size=BEAM_SIZES["fast"], timeout_seconds=settings.transcribe_timeout, request_id="")
    model = wanted.model or settings.default_speech_model
    failed = 0
    with second_progress() as bars:
        for file in files:
            try:
                transcript = await _hear(transcribe, file, model, request, bars)
            except (AudioRefused, InvalidRequest) as error:
                failed += 1
                _tell(file, error)
                continue
            content = await content_of(transcript, wanted, model, request_id="")
            deliver(file, content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=2))
    return failed


async def _hear(
    transcribe: TranscribeAudio, file: Path, model: str, request: TranscriptionRequest, bars: Progress
) -> Transcript:
    task = bars.add_task(file.name, total=None)
    async with aclosing(transcribe.stream(model, file, request)) as events:
        async for event in events:
            if isinstance(event, Heard):
                bars.update(task, completed=event.processed, total=event.total)
            elif isinstance(event, Transcript):
                bars.update(task, completed=event.duration, total=event.duration)
                return event
    raise GenerationFailed("the model's stream ended without a transcript")


# -- by a server --------------------------------------------------------------------------------------------


def _ask(url: str, files: Sequence[Path], options: Mapping[str, str], deliver: Deliver) -> int:
    """Let the server write down `files`; returns how many it refused."""
    failed = 0
    with Server(url) as remote:
        for file in files:
            try:
                with status(f"the server is listening to {file.name}"):
                    deliver(file, remote.transcribe(file, options))
            except RemoteFailed as error:
                failed += 1
                _tell(file, error)
    return failed

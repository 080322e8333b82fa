"""`ingle transcribe`: recordings in, text or subtitles out."""

import asyncio
import json
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import click
from rich.progress import Progress

from application.ports import Fetcher
from application.transcribe_audio import TranscribeAudio
from domain.errors import (
    AudioRefused,
    DeadlineExceeded,
    DownloadFailed,
    DownloadTooLarge,
    GenerationFailed,
    InvalidRequest,
    UrlNotAllowed,
)
from domain.listening import Preset
from domain.subtitles import SubtitleFormat
from domain.transcription import Progress as Heard
from domain.transcription import SpeechTask, Transcript, TranscriptionRequest
from ingle.cli import Invocation
from ingle.commands.in_process import application
from ingle.commands.recordings import Delivery, Source, sources_of
from ingle.commands.terminal import second_progress, status
from ingle.remote import RemoteFailed, Server
from ingle.settings import Settings

JSON = "json"
FORMATS = (*(form.value for form in SubtitleFormat), JSON, "verbose_json")
MIB = 1 << 20
_SUFFIXES = {SubtitleFormat.TEXT.value: "txt", "verbose_json": JSON}
_REFUSALS = (AudioRefused, InvalidRequest, UrlNotAllowed, DownloadFailed, DownloadTooLarge, DeadlineExceeded)

Deliver = Callable[[Source, str], None]


@click.command("transcribe")
@click.argument("recordings", nargs=-1, required=True, metavar="FILE_OR_URL...")
@click.option("--model", help="Speech model (default: INGLE_DEFAULT_SPEECH_MODEL).")
@click.option("--language", help="What is spoken, as in `en` (default: found out from the sound).")
@click.option("--translate", is_flag=True, help="Write in English whatever is spoken.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--word-timestamps", is_flag=True, help="Time every word; shown by --format json.")
@click.option("--prompt", help="Words and names that the recording may hold, spelled right.")
@click.option("--beam-size", type=int, help="1 to 10; more is slower and a little better (default: 1).")
@click.option(
    "--output", "target", type=click.Path(path_type=Path), help="File, or folder for the texts of several recordings."
)
@click.option("--device", help="auto, cpu, cuda or cuda:N (default: INGLE_DEVICE_TYPE).")
@click.option("--server", metavar="URL", help="Let a running server do it instead of loading the model here.")
@click.pass_obj
def command(
    invocation: Invocation,
    recordings: tuple[str, ...],
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
      ingle transcribe interviews/ https://example.org/talk.mp3 --output texts/

    A folder stands for the recordings in it and below it.
    """
    if server and device:
        raise click.UsageError("--device is the server's business: leave it out with --server")
    sources = sources_of(recordings)
    several = len(sources) > 1 or (target is not None and target.is_dir())
    deliver = Delivery(target, _SUFFIXES.get(form, form), several=several)
    settings = invocation.settings(device_type=device)
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
        failed = _ask(Server(server, key=settings.api_key), sources, options, deliver)
    else:
        failed = asyncio.run(_transcribe(settings, sources, options, deliver))
    if failed:
        raise click.ClickException(f"{failed} of {len(sources)} recordings could not be written down")


def _tell(source: Source, error: Exception) -> None:
    click.echo(f"ingle: {source.shown}: {error}", err=True)


# -- here ---------------------------------------------------------------------------------------------------


async def _transcribe(
    settings: Settings, sources: Sequence[Source], options: Mapping[str, str], deliver: Deliver
) -> int:
    """Transcribe `sources` one after the other; returns how many failed."""
    async with application(settings) as built:
        return await write_down(built.transcribe, built.fetcher, settings, sources, options, deliver)


async def write_down(
    transcribe: TranscribeAudio,
    fetcher: Fetcher,
    settings: Settings,
    sources: Sequence[Source],
    options: Mapping[str, str],
    deliver: Deliver,
) -> int:
    """Deliver what is said in each recording; one that is refused does not keep the next from being heard.

    `options` are those of `/transcribe`, so that both ways give the same.
    """
    from api.speech_fields import options_of
    from api.speech_options import TranscribeOptions
    from api.transcripts import content_of

    wanted = options_of(TranscribeOptions, query=[*options.items()])
    request = wanted.domain_request(
        beam_size=Preset(settings.speech_preset).beam_size, timeout_seconds=settings.transcribe_timeout
    )
    model = wanted.model or settings.default_speech_model
    failed = 0
    with second_progress() as bars:
        for source in sources:
            try:
                async with _here(source, fetcher, int(settings.max_upload_mb * MIB)) as file:
                    transcript = await _hear(transcribe, source, file, model, request, bars)
            except _REFUSALS as error:
                failed += 1
                _tell(source, error)
                continue
            content = await content_of(transcript, wanted, model, request_id="")
            deliver(source, content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=2))
    return failed


@asynccontextmanager
async def _here(source: Source, fetcher: Fetcher, max_bytes: int) -> AsyncGenerator[Path, None]:
    """The recording as a file of this machine, while the block runs."""
    if source.path is not None:
        yield source.path
        return
    with tempfile.TemporaryDirectory(prefix="ingle-") as folder:
        file = Path(folder) / "input.bin"
        with status(f"fetching {source.name}"):
            await fetcher.fetch(source.shown, file, max_bytes=max_bytes)
        yield file


async def _hear(
    transcribe: TranscribeAudio,
    source: Source,
    file: Path,
    model: str,
    request: TranscriptionRequest,
    bars: Progress,
) -> Transcript:
    task = bars.add_task(source.name, total=None)
    async with aclosing(transcribe.stream(model, file, request)) as events:
        async for event in events:
            if isinstance(event, Heard):
                bars.update(task, completed=event.processed, total=event.total)
            elif isinstance(event, Transcript):
                bars.update(task, completed=event.duration, total=event.duration)
                return event
    raise GenerationFailed("the model's stream ended without a transcript")


# -- by a server --------------------------------------------------------------------------------------------


def _ask(server: Server, sources: Sequence[Source], options: Mapping[str, str], deliver: Deliver) -> int:
    """Let the server write down `sources`; returns how many it refused."""
    failed = 0
    with server as remote:
        for source in sources:
            try:
                with status(f"the server is listening to {source.name}"):
                    text = (
                        remote.transcribe_url(source.shown, options)
                        if source.path is None
                        else remote.transcribe(source.path, options)
                    )
                deliver(source, text)
            except RemoteFailed as error:
                failed += 1
                _tell(source, error)
    return failed

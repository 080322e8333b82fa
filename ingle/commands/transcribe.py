"""`ingle transcribe`: recordings in, text or subtitles out."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress

from application.transcribe_audio import TranscribeAudio
from domain.errors import AudioRefused, GenerationFailed, InvalidRequest
from domain.subtitles import SubtitleFormat, render
from domain.transcription import Caveat, Segment, SpeechTask, Transcript, TranscriptionRequest, Word
from domain.transcription import Progress as Heard
from ingle.cli import Invocation
from ingle.commands.terminal import second_progress, status
from ingle.remote import RemoteFailed, Server
from ingle.settings import Settings

JSON = "json"
FORMATS = (*(form.value for form in SubtitleFormat), JSON)
_SUFFIXES = {SubtitleFormat.TEXT.value: "txt"}

Deliver = Callable[[Path, Transcript], None]


@click.command("transcribe")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", help="Speech model (default: INGLE_DEFAULT_SPEECH_MODEL).")
@click.option("--language", help="What is spoken, as in `en` (default: found out from the sound).")
@click.option("--translate", is_flag=True, help="Write in English whatever is spoken.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--word-timestamps", is_flag=True, help="Time every word; shown by --format json.")
@click.option("--prompt", default="", help="Words and names that the recording may hold, spelled right.")
@click.option("--beam-size", type=int, default=1, show_default=True, help="More is slower and a little better.")
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
    prompt: str,
    beam_size: int,
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
    request = TranscriptionRequest(
        language=language,
        task=SpeechTask.TRANSLATE if translate else SpeechTask.TRANSCRIBE,
        prompt=prompt,
        beam_size=beam_size,
        # Cues are cut at words; without their times a long segment would stay one long cue.
        word_timestamps=word_timestamps or form not in (SubtitleFormat.TEXT, JSON),
        timeout_seconds=settings.transcribe_timeout,
    )
    several = len(files) > 1

    def deliver(file: Path, transcript: Transcript) -> None:
        _deliver(rendered(transcript, form), file, target, form, several=several)

    if server:
        failed = _ask(server, files, model, request, deliver)
    else:
        failed = asyncio.run(_transcribe(settings, files, model or settings.default_speech_model, request, deliver))
    if failed:
        raise click.ClickException(f"{failed} of {len(files)} recordings could not be written down")


def rendered(transcript: Transcript, form: str) -> str:
    """`transcript` in one of FORMATS, ending with a line break."""
    if form == JSON:
        return json.dumps(asdict(transcript), ensure_ascii=False, indent=2) + "\n"
    return render(transcript, SubtitleFormat(form))


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


async def _transcribe(
    settings: Settings, files: Sequence[Path], model: str, request: TranscriptionRequest, deliver: Deliver
) -> int:
    """Transcribe `files` one after the other; returns how many failed."""
    from ingle.bootstrap import build

    application = build(settings)
    try:
        return await write_down(application.transcribe, files, model, request, deliver)
    finally:
        await application.close()


async def write_down(
    transcribe: TranscribeAudio, files: Sequence[Path], model: str, request: TranscriptionRequest, deliver: Deliver
) -> int:
    """Deliver the transcript of each file; a recording that is refused does not keep the next from being heard."""
    failed = 0
    with second_progress() as bars:
        for file in files:
            try:
                deliver(file, await _hear(transcribe, file, model, request, bars))
            except (AudioRefused, InvalidRequest) as error:
                failed += 1
                _tell(file, error)
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


def _ask(url: str, files: Sequence[Path], model: str | None, request: TranscriptionRequest, deliver: Deliver) -> int:
    """Let the server write down `files`; returns how many it refused."""
    failed = 0
    with Server(url) as remote:
        for file in files:
            try:
                with status(f"the server is listening to {file.name}"):
                    answer = remote.transcribe(file, _options(model, request))
            except RemoteFailed as error:
                failed += 1
                _tell(file, error)
            else:
                deliver(file, _transcript(answer))
    return failed


def _options(model: str | None, request: TranscriptionRequest) -> Mapping[str, str]:
    wished = {
        "model": model,
        "language": request.language,
        "task": request.task.value,
        "prompt": request.prompt or None,
        "beam_size": str(request.beam_size),
        "include_segments": "true",
        "word_timestamps": str(request.word_timestamps).lower(),
    }
    return {name: value for name, value in wished.items() if value is not None}


def _transcript(answer: Mapping[str, Any]) -> Transcript:
    """The server's JSON answer as the domain knows it, so that every format is made here."""
    segments = [
        Segment(**{**segment, "words": tuple(_word(word) for word in segment.get("words") or ())})
        for segment in answer["segments"] or ()
    ]
    warnings = [Caveat(warning["code"], warning["message"]) for warning in answer["warnings"]]
    return Transcript(
        text=answer["text"],
        language=answer["language"],
        language_probability=answer["language_probability"],
        duration=answer["duration"],
        duration_after_vad=answer["duration_after_vad"],
        segments=tuple(segments),
        task=SpeechTask(answer["task"]),
        processing_time=answer["processing_time"],
        queue_time=answer["queue_wait_time"],
        device=answer["device"],
        compute_type=answer["compute_type"],
        warnings=tuple(warnings),
    )


def _word(word: Mapping[str, Any]) -> Word:
    return Word(word["word"], word["start"], word["end"], word["probability"])

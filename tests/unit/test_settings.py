"""Settings: names, order of sources, refusals, and the document made from them."""

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from ingle.settings import Settings
from ingle.settings_docs import render, written
from ingle.settings_sources import BadSettings, masked, names_of, read_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return tmp_path


def read(environ: dict[str, str], where: Path, **more: object) -> Settings:
    return read_settings(environ, directory=where, **more).settings  # type: ignore[arg-type]


def problems(environ: dict[str, str], where: Path) -> str:
    with pytest.raises(BadSettings) as caught:
        read_settings(environ, directory=where)
    return "\n".join(caught.value.problems)


# -- names and order ------------------------------------------------------------------------------------


def test_each_later_source_wins(where: Path) -> None:
    toml, dotenv = where / "ingle.toml", where / ".env"
    assert read({}, where).max_workers == 8
    toml.write_text("max_workers = 2\nmax_queue = 2\nmax_processes = 2\nhttp_port = 2\n")
    dotenv.write_text("INGLE_MAX_QUEUE=3\nMAX_PROCESSES=3\nINGLE_HTTP_PORT=3\n")
    environ = {"INGLE_MAX_PROCESSES": "4", "HTTP_PORT": "4"}
    found = read_settings(environ, directory=where, command_line={"http_port": 5, "max_body_mb": None})
    assert (found.settings.max_workers, found.settings.max_queue) == (2, 3)
    assert (found.settings.max_processes, found.settings.http_port) == (4, 5)
    assert found.settings.max_body_mb == 4
    assert found.origins == {
        "max_workers": f"max_workers in {toml}",
        "max_queue": "INGLE_MAX_QUEUE in .env",
        "max_processes": "INGLE_MAX_PROCESSES",
        "http_port": "command line",
    }


def test_the_prefixed_name_beats_the_bare_one_and_the_bare_one_beats_ollamas(where: Path) -> None:
    environ = {"OLLAMA_HOST": "192.168.1.5:1", "HTTP_HOST": "10.0.0.1", "INGLE_HTTP_HOST": "10.0.0.2"}
    assert read(environ, where).http_host == "10.0.0.2"
    del environ["INGLE_HTTP_HOST"]
    assert read(environ, where).http_host == "10.0.0.1"
    del environ["HTTP_HOST"]
    assert read(environ, where).http_host == "192.168.1.5"


def test_only_marked_settings_are_read_from_their_bare_name(where: Path) -> None:
    bare = dict.fromkeys(("KEEP_ALIVE", "MAX_QUEUE", "DOCS", "ORIGINS", "CONTEXT_LENGTH", "DRAIN"), "1")
    assert read(bare, where) == read({}, where)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("0.0.0.0:11434", "0.0.0.0", 11434),
        ("http://nas.local:80", "nas.local", 80),
        ("nas.local", "nas.local", 8080),
        ("[::1]:9", "::1", 9),
        ("[::1]", "::1", 8080),
        (":9000", "127.0.0.1", 9000),
    ],
)
def test_ollama_host_may_hold_a_port(address: str, host: str, port: int, where: Path) -> None:
    settings = read({"OLLAMA_HOST": address}, where)
    assert (settings.http_host, settings.http_port) == (host, port)


def test_an_empty_value_counts_as_not_set(where: Path) -> None:
    environ = {"INGLE_MAX_WORKERS": "", "MAX_WORKERS": "3", "INGLE_PRELOAD_MODELS": ""}
    settings = read(environ, where)
    assert (settings.max_workers, settings.preload_models) == (3, ())


def test_a_named_configuration_file_outranks_the_one_in_the_working_directory(where: Path) -> None:
    (where / "ingle.toml").write_text("max_workers = 2")
    (where / "a.toml").write_text("max_workers = 3")
    (where / "b.toml").write_text("max_workers = 4")
    environ = {"INGLE_CONFIG": str(where / "a.toml")}
    assert read(environ, where).max_workers == 3
    assert read(environ, where, config=where / "b.toml").max_workers == 4


def test_the_data_directory_follows_xdg_and_the_models_directory_follows_the_data(where: Path) -> None:
    settings = read({"XDG_DATA_HOME": str(where)}, where)
    assert (settings.data_dir, settings.models_dir) == (where / "ingle", where / "ingle" / "models")
    assert read({"INGLE_DATA_DIR": "~/x"}, where).models_dir == Path("~/x/models").expanduser()
    assert read({"INGLE_MODELS_DIR": str(where)}, where).models_dir == where


# -- values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "seconds"), [("5m", 300), ("1.5h", 5400), ("300ms", 0.3), ("90", 90), ("2.5", 2.5)])
def test_durations_are_seconds_or_written_as_in_go(text: str, seconds: float, where: Path) -> None:
    assert read({"INGLE_DECODE_TIMEOUT": text}, where).decode_timeout == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "seconds"), [("-1", math.inf), ("-5m", math.inf), ("0", 0), ("10", 10), ("1m", 60)])
def test_keep_alive_takes_what_ollama_takes(text: str, seconds: float, where: Path) -> None:
    assert read({"OLLAMA_KEEP_ALIVE": text}, where).keep_alive == seconds


def test_lists_and_pairs_are_written_with_commas_or_as_toml(where: Path) -> None:
    environ = {"INGLE_ORIGINS": "https://a.example, https://b.example", "INGLE_MODEL_ALIASES": "gpt=a:b, *=c"}
    settings = read(environ, where)
    assert settings.origins == ("https://a.example", "https://b.example")
    assert settings.model_aliases == {"gpt": "a:b", "*": "c"}
    (where / "ingle.toml").write_text('origins = ["https://a.example"]\nmodel_aliases = { gpt = "a:b" }\n')
    settings = read({}, where)
    assert (settings.origins, settings.model_aliases) == (("https://a.example",), {"gpt": "a:b"})


def test_speech_has_a_device_of_its_own_if_it_is_given_one(where: Path) -> None:
    assert read({}, where).speech_device is None
    assert read({"INGLE_SPEECH_DEVICE": "CUDA:1"}, where).speech_device == "cuda:1"


def test_a_backslash_n_in_the_context_template_is_a_line_break(where: Path) -> None:
    settings = read({"INGLE_CONTEXT_TEMPLATE": r"{context}\n{query}"}, where)
    assert settings.context_template == "{context}\n{query}"


BAD = [
    ("INGLE_HTTP_PORT", "http", "valid integer"),
    ("INGLE_HTTP_PORT", "65536", "less than or equal to 65535"),
    ("OLLAMA_HOST", "nas.local:http", "INGLE_HTTP_PORT (from OLLAMA_HOST)"),
    ("DEVICE_TYPE", "gpu", "must be auto, cpu, cuda or cuda:N"),
    ("INGLE_SPEECH_DEVICE", "gpu", "must be auto, cpu, cuda or cuda:N"),
    ("INGLE_CPU_THREADS", "-1", "greater than or equal to 0"),
    ("INGLE_MAX_WORKERS", "0", "greater than or equal to 1"),
    ("INGLE_KEEP_ALIVE", "soon", "is not a duration"),
    ("INGLE_KEEP_ALIVE", "nan", "must be a number"),
    ("INGLE_LOAD_TIMEOUT", "-3", "greater than 0"),
    ("INGLE_LOAD_TIMEOUT", "inf", "less than or equal to"),
    ("INGLE_DECODE_TIMEOUT", "5 minutes", "is not a duration"),
    ("INGLE_MAX_BODY_MB", "nan", "less than or equal to 1024"),
    ("GENERATION_TEMPERATURE", "3", "less than or equal to 2"),
    ("MAX_NEW_TOKENS", "0", "greater than or equal to 1"),
    ("INGLE_CONTEXT_TEMPLATE", "{query}", "must hold both"),
    ("INGLE_MODEL_ALIASES", "gpt", "alias=target"),
    ("INGLE_DEFAULT_MODEL", "../etc/passwd", "must be a model's name"),
    ("INGLE_PRELOAD_MODELS", "a:b,../x", "must be a model's name"),
    ("INGLE_ORIGINS", "*", "every web site"),
    ("INGLE_DOCS", "perhaps", "'public', 'key' or 'off'"),
    ("INGLE_LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
    ("INGLE_LOG_FORMAT", "xml", "'auto', 'console' or 'json'"),
    ("INGLE_SPEECH_COMPUTE_TYPE", "int 8", "match pattern"),
    ("PIP_INDEX_URL", "pypi.org", "match pattern"),
]


@pytest.mark.parametrize(("name", "value", "reason"), BAD, ids=[f"{name}={value}" for name, value, _ in BAD])
def test_a_bad_value_is_refused_with_its_name_and_the_reason(name: str, value: str, reason: str, where: Path) -> None:
    said = problems({name: value}, where)
    assert name in said
    assert reason in said


def test_all_bad_values_are_told_at_once(where: Path) -> None:
    said = problems({"INGLE_HTTP_PORT": "x", "INGLE_DATA_DIR": "/d", "INGLE_DEVICE_TYPE": "gpu"}, where)
    assert said.count("\n") == 1


@pytest.mark.parametrize("content", [b"max_workers = ", b"\xff\xfe"])
def test_a_broken_configuration_file_is_named(content: bytes, where: Path) -> None:
    (where / "ingle.toml").write_bytes(content)
    assert str(where / "ingle.toml") in problems({}, where)


def test_a_missing_named_configuration_file_is_an_error(where: Path) -> None:
    assert "No such file" in problems({"INGLE_CONFIG": str(where / "none.toml")}, where)


def test_slips_in_names_are_told_with_the_nearest_name(where: Path) -> None:
    (where / "ingle.toml").write_text("max_wokers = 3")
    found = read_settings({"INGLE_HTTP_PROT": "1", "INGLE_TEST_REQUIRE": "gpu", "INGLE_ZZZZZZ": "1"}, directory=where)
    assert found.warnings == [
        "INGLE_HTTP_PROT is not a setting: did you mean INGLE_HTTP_PORT?",
        "INGLE_ZZZZZZ is not a setting",
        f"max_wokers in {where / 'ingle.toml'} is not a setting: did you mean max_workers?",
    ]


# -- the class and its document ----------------------------------------------------------------------------


def test_constructing_the_class_reads_nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGLE_HTTP_PORT", "1")
    monkeypatch.setenv("HTTP_PORT", "1")
    assert Settings().http_port == 8080


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().http_port = 1


def test_every_setting_has_a_docstring() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_no_two_settings_share_an_environment_name_except_ollama_host() -> None:
    names = [name for setting in Settings.model_fields for name in names_of(setting)]
    assert {name for name in names if names.count(name) > 1} == {"OLLAMA_HOST"}


def test_the_settings_page_is_current() -> None:
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == render(), "run `make docs`"


def test_every_default_in_the_page_reads_back_as_itself(where: Path) -> None:
    defaults = Settings()
    for name, field in Settings.model_fields.items():
        value = getattr(defaults, name)
        if text := written(value, field):
            assert getattr(read({f"INGLE_{name.upper()}": text}, where), name) == value, name


def test_addresses_are_shown_without_their_passwords() -> None:
    assert masked("https://user:pass@host/simple") == "https://***@host/simple"
    assert masked(5) == 5

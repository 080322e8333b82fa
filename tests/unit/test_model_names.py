import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.model import ModelSpec, is_valid_name, nearest_names, resolve_name
from tests.fakes.models import text_spec

CODER_HALF = text_spec("qwen2.5-coder:0.5b", hub_id="Qwen/Qwen2.5-Coder-0.5B-Instruct")
CODER_THREE = text_spec("qwen2.5-coder:3b")
SMOL = text_spec("smollm2:135m")
WHISPER = text_spec("whisper:latest")
INSTALLED = [CODER_HALF, CODER_THREE, SMOL, WHISPER]
ALIASES = {"qwen-model_full": "qwen2.5-coder:0.5b", "Small": "SmolLM2", "gone": "not-here:1b"}


def resolve(name: str, aliases: dict[str, str] = ALIASES) -> ModelSpec | None:
    return resolve_name(name, INSTALLED, aliases)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("qwen2.5-coder:0.5b", CODER_HALF),
        ("QWEN2.5-Coder:0.5B", CODER_HALF),
        ("  qwen2.5-coder:0.5b\n", CODER_HALF),
        ("qwen-model_full", CODER_HALF),
        ("Qwen-Model_FULL", CODER_HALF),
        ("whisper", WHISPER),
        ("smollm2", SMOL),
        ("Qwen/Qwen2.5-Coder-0.5B-Instruct", CODER_HALF),
        ("qwen/qwen2.5-coder-0.5b-instruct", CODER_HALF),
    ],
)
def test_a_model_is_found_by_each_of_its_names(name: str, meant: ModelSpec) -> None:
    assert resolve(name) is meant


@pytest.mark.parametrize("name", ["", " ", "qwen2.5-coder", "qwen2.5-coder:7b", "gone", "*", "smollm2:", ":135m", "é"])
def test_a_name_that_means_nothing_or_two_things_finds_nothing(name: str) -> None:
    assert resolve(name) is None


def test_the_target_of_an_alias_need_not_be_the_full_name() -> None:
    assert resolve("small") is SMOL


def test_an_exact_name_outranks_an_alias() -> None:
    assert resolve("smollm2:135m", {"smollm2:135m": "whisper:latest"}) is SMOL


def test_an_alias_outranks_the_guesses() -> None:
    assert resolve("whisper", {"whisper": "smollm2:135m"}) is SMOL


def test_an_alias_of_a_model_that_is_not_installed_hides_no_other_meaning() -> None:
    assert resolve("whisper", {"whisper": "whisper:large"}) is WHISPER


def test_latest_outranks_the_other_tags() -> None:
    specs = [text_spec("m:7b"), text_spec("m:latest")]
    assert resolve_name("m", specs, {}) is specs[1]


def test_the_catch_all_comes_last() -> None:
    aliases = {"*": "smollm2:135m"}
    assert resolve("gpt-4o", aliases) is SMOL
    assert resolve("whisper", aliases) is WHISPER
    assert resolve("Qwen/Qwen2.5-Coder-0.5B-Instruct", aliases) is CODER_HALF


def test_aliases_do_not_lead_in_a_circle() -> None:
    assert resolve("a", {"a": "b", "b": "a"}) is None


def test_nothing_is_found_where_nothing_is_installed() -> None:
    assert resolve_name("smollm2:135m", [], {"*": "smollm2:135m"}) is None


@given(st.text(max_size=30), st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4))
def test_any_name_finds_an_installed_model_or_nothing(name: str, aliases: dict[str, str]) -> None:
    assert resolve(name, aliases) in [*INSTALLED, None]


@pytest.mark.parametrize(
    "name",
    [
        "qwen2.5-coder:0.5b",
        "qwen-model_full",
        "Qwen/Qwen2.5-Coder-0.5B-Instruct",
        "hf.co/Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF:Q4_K_M",
        "a",
        "_x",
        "1",
    ],
)
def test_usual_names_are_valid(name: str) -> None:
    assert is_valid_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../etc/passwd",
        "a/../b",
        "a..b",
        "/etc/passwd",
        "a/b/c/d",
        "a//b",
        "a/",
        "a:b:c",
        "a:",
        ":a",
        "a b",
        "a\n",
        "a\x00",
        "a\\b",
        ".hidden",
        "-rf",
        "a:.x",
        "модель",
        "a" * 81,
    ],
)
def test_names_that_could_leave_the_models_folder_are_not_valid(name: str) -> None:
    assert not is_valid_name(name)


@given(st.text(alphabet="ab./:\\-_\x00\n~", max_size=12))
def test_a_valid_name_has_only_plain_path_parts(name: str) -> None:
    if is_valid_name(name):
        parts = name.replace(":", "/").split("/")
        assert all(part and not part.startswith((".", "-")) for part in parts)
        assert not set(name) & set("\\\x00\n~")


def test_the_nearest_names_come_best_first_in_their_own_spelling() -> None:
    names = ["whisper:base", "Qwen2.5:3b", "qwen2.5:7b"]
    assert nearest_names("qwen2.5:3", names)[0] == "Qwen2.5:3b"
    assert list(nearest_names("zzzzzz", names)) == []


def test_no_more_names_are_proposed_than_a_person_reads() -> None:
    assert len(nearest_names("m", [f"m{number}" for number in range(50)], limit=2)) == 2


def test_proposing_names_for_a_very_long_name_is_quick() -> None:
    assert list(nearest_names("x" * 1_000_000, ["tiny:1b"])) == []


def test_latest_also_means_the_model_without_a_tag() -> None:
    spec = text_spec("bare")
    assert resolve_name("bare:latest", [spec], {}) is spec
    assert resolve_name("bare:other", [spec], {}) is None

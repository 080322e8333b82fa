"""Providers as the operator writes them down."""

from pathlib import Path
from typing import Any

import pytest

from application.joined_repository import REMOTE_DEVICE, JoinedRepository
from domain.errors import ModelNotFound
from domain.model import LoadOptions, Task, WeightFormat
from infrastructure.providers.entry import ProvidedModel, ProviderEntry, SpeechShape
from infrastructure.providers.repository import ProvidedModels
from ingle.external_models import llm_alias, provided_models
from ingle.settings_providers import ProviderSettings
from tests.fakes.clock import FakeClock
from tests.fakes.models import FakeModelRepository, text_spec

KEY = "sk-canary-0123456789"
NONE = ProviderSettings.model_construct(llm_base_url=None)


def settings(**values: Any) -> ProviderSettings:
    return ProviderSettings.model_validate({"llm_base_url": "https://llm.example/v1/", **values})


def lab(**changes: Any) -> dict[str, Any]:
    return {"name": "lab", "base_url": "https://lab.example/v1", "models": [{"name": "big"}], **changes}


def test_a_base_url_alone_offers_the_default_model_under_its_name_and_as_llm() -> None:
    [model] = provided_models(settings(llm_api_key=KEY, llm_timeout="90s"), [])
    assert (model.name, model.remote_name, model.task) == ("qwen2.5-14b", "qwen2.5-14b", Task.TEXT)
    assert (model.provider.base_url, model.provider.host) == ("https://llm.example/v1", "llm.example")
    assert (model.provider.key, model.provider.patience.total) == (KEY, 90.0)
    assert llm_alias([model]) == {"llm": "qwen2.5-14b"}
    assert model.spec.format is WeightFormat.REMOTE


def test_without_a_base_url_nothing_is_offered() -> None:
    assert provided_models(NONE, []) == ()
    assert llm_alias(()) == {}


def test_a_key_may_stand_in_a_file_or_in_a_variable(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    [llm] = provided_models(settings(llm_api_key_file=str(tmp_path / "key")), [])
    [one] = provided_models(NONE, [lab(key_env="LAB_KEY")], {"LAB_KEY": KEY})
    [two] = provided_models(NONE, [lab(key_file=str(tmp_path / "key"))])
    assert [model.provider.key for model in (llm, one, two)] == [KEY] * 3


def test_a_table_names_several_models() -> None:
    vectors = {"name": "vectors", "model": "bge-m3", "task": "embedding", "dimensions": 1024}
    big = {"name": "big:72b", "model": "Qwen/72B", "context_length": 32768, "capabilities": ["completion", "tools"]}
    table = lab(models=[big, vectors], idle_timeout="5s", timeout=20, extensions=["top_k"], max_in_flight=3)
    first, second = provided_models(NONE, [table])
    assert (first.name, first.remote_name, first.context_length) == ("big:72b", "Qwen/72B", 32768)
    assert (second.task, second.dimensions, second.capabilities) == (Task.EMBEDDING, 1024, ("embedding",))
    assert first.provider == second.provider
    assert (first.provider.patience.idle, first.provider.patience.total) == (5.0, 20.0)
    assert dict(first.spec.preset.parameters) == {"min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0}


@pytest.mark.parametrize(
    "address",
    [
        "ftp://llm.example",
        "https://",
        "https://user:secret@llm.example/v1",
        "https://llm.example/v1?key=secret",
        "http://169.254.169.254/v1",
        "http://0xa9fea9fe/v1",
        "http://[::ffff:169.254.169.254]/v1",
        "http://metadata.google.internal/v1",
        "http://Metadata.google.internal./v1",
    ],
)
def test_an_address_that_is_none_of_a_provider_is_refused_without_being_repeated(address: str) -> None:
    with pytest.raises(ValueError, match="llm_base_url") as caught:
        provided_models(settings(llm_base_url=address), [])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "word"),
    [
        (lab(name="no good"), "name"),
        (lab(name="llm"), "name"),
        (lab(name="whisperx"), "name"),
        (lab(key="secret"), "key"),
        (lab(key_env="NOT_THERE"), "NOT_THERE"),
        (lab(key_env="A", key_file="b"), "key_file"),
        (lab(key_file="/not/there"), "key_file"),
        (lab(extensions=["top_x"]), "top_x"),
        (lab(timeout="soon"), "timeout"),
        (lab(timeout=0), "timeout"),
        (lab(models=[]), "models"),
        (lab(models=["big"]), "models"),
        (lab(models=[{"name": "../big"}]), "name"),
        (lab(models=[{"name": "big", "task": "speech"}]), "task"),
        (lab(models=[{"name": "big", "task": "embedding"}]), "dimensions"),
        (lab(models=[{"name": "big", "dimensions": 3}]), "dimensions"),
        (lab(models=[{"name": "big", "sice": 3}]), "sice"),
        (lab(models=[{"name": "big"}, {"name": "Big"}]), "big"),
        (lab(max_in_flight=True), "max_in_flight"),
    ],
)
def test_a_slip_in_a_table_is_named(table: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word) as caught:
        provided_models(NONE, [table], {})
    assert "secret" not in str(caught.value)


# -- beside the models that lie here -----------------------------------------------------------------------

PROVIDER = ProviderEntry("lab", "https://lab.example/v1")


def joined(*external: str, **aliases: str) -> JoinedRepository:
    models = [ProvidedModel(name, name, PROVIDER) for name in external]
    repository = FakeModelRepository(text_spec("tiny:1b"), aliases=aliases)
    return JoinedRepository(repository, ProvidedModels(models, FakeClock()), aliases)


@pytest.mark.parametrize(
    ("name", "found", "is_remote"),
    [
        ("tiny:1b", "tiny:1b", False),
        ("tiny", "tiny:1b", False),
        ("BIG", "big", True),
        ("big:latest", "big", True),
        ("gpt-4", "big", True),
        ("anything", "tiny:1b", False),
    ],
)
def test_names_mean_what_they_would_if_all_models_lay_here(name: str, found: str, is_remote: bool) -> None:
    spec = joined("big", **{"gpt-4": "big", "*": "tiny:1b"}).find(name)
    assert (spec.id, spec.format is WeightFormat.REMOTE) == (found, is_remote)


def test_a_configured_name_outranks_the_local_model_of_that_name_and_hides_it() -> None:
    repository = joined("tiny:1b")
    assert repository.find("tiny:1b").format is WeightFormat.REMOTE
    assert [spec.format for spec in repository.installed()] == [WeightFormat.REMOTE]


def test_a_tag_of_a_provider_does_not_take_a_local_name() -> None:
    assert joined("tiny:70b").find("tiny:1b").format is not WeightFormat.REMOTE


def test_a_local_model_that_is_missing_is_not_looked_for_elsewhere() -> None:
    with pytest.raises(ModelNotFound):
        joined("big").find("qwen")


async def test_external_models_need_no_memory_and_give_none_back() -> None:
    repository = joined("big")
    spec = repository.find("big")
    need = repository.need(spec, LoadOptions())
    model = await repository.load(spec, LoadOptions(), lambda _: None)
    assert (need.device, need.total) == (REMOTE_DEVICE, 0)
    assert repository.budget(REMOTE_DEVICE).room > 1 << 60
    assert model.info.memory_bytes == 0
    assert await repository.unload(model) == 0


# -- whisperx ------------------------------------------------------------------------------------------


def speech_settings(url: str, **values: Any) -> ProviderSettings:
    return ProviderSettings.model_validate({"whisperx_url": url, **values})


@pytest.mark.parametrize(
    ("url", "base", "shape"),
    [
        ("https://far.example/v1/audio/transcriptions", "https://far.example/v1", SpeechShape.OPENAI),
        ("http://far.example:9000/asr/", "http://far.example:9000", SpeechShape.ASR),
        ("http://far.example:9000", "http://far.example:9000", SpeechShape.ASR),
        ("http://far.example/ears/asr", "http://far.example/ears", SpeechShape.ASR),
    ],
)
def test_the_end_of_its_path_says_in_which_words_a_speech_server_is_spoken_to(
    url: str, base: str, shape: SpeechShape
) -> None:
    [model] = provided_models(speech_settings(url, whisperx_api_key=KEY, whisperx_timeout="2m"), [])
    assert (model.name, model.remote_name, model.task) == ("whisperx", "whisper-1", Task.SPEECH)
    assert (model.provider.base_url, model.provider.speech_shape) == (base, shape)
    assert (model.provider.key, model.provider.patience.total, model.provider.patience.first_byte) == (
        KEY,
        120.0,
        120.0,
    )
    assert KEY not in repr(model)


@pytest.mark.parametrize(
    "url",
    [
        "https://far.example/v1",
        "https://user:secret@far.example/asr",
        "http://169.254.169.254/asr",
        "ftp://far.example/asr",
        "https://far.example/asr?key=secret",
    ],
)
def test_a_speech_server_s_address_that_is_none_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="whisperx_url") as caught:
        provided_models(speech_settings(url), [])
    assert "secret" not in str(caught.value)
    assert "far.example" not in str(caught.value)

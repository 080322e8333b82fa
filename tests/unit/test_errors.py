import inspect
import re
from collections.abc import Iterator

import pytest

from domain import errors
from domain.errors import (
    ContextLengthExceeded,
    DeviceNotAvailable,
    IngleError,
    InvalidRequest,
    ModelBusy,
    ModelNotFound,
    Overloaded,
)

# These carry figures in their message, so they cannot be raised without them.
EXAMPLES: dict[type[IngleError], IngleError] = {
    ContextLengthExceeded: ContextLengthExceeded(5000, 4096),
    ModelNotFound: ModelNotFound("qwen"),
    ModelBusy: ModelBusy("qwen:0.5b", 3),
    DeviceNotAvailable: DeviceNotAvailable("cuda:7", ["cpu"]),
}

# The same request may succeed later: nothing about it, or about the machine, has to change by hand.
RETRYABLE = {
    "ModelBusy",
    "ModelLoading",
    "DownloadFailed",
    "EngineUnavailable",
    "Overloaded",
    "ServerDraining",
    "DeadlineExceeded",
    "QuotaExceeded",
    "DatabaseUnavailable",
    "DatabaseBusy",
    "StorageFull",
    "ProviderUnavailable",
    "RateLimited",
    "ProviderError",
    "BadResponse",
}


def kinds_of(kind: type[IngleError]) -> Iterator[type[IngleError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from kinds_of(child)


KINDS = [kind for kind in dict.fromkeys(kinds_of(IngleError)) if kind.__module__ == errors.__name__]


def example(kind: type[IngleError]) -> IngleError:
    return EXAMPLES[kind] if kind in EXAMPLES else kind()


def test_the_list_of_kinds_is_the_whole_module() -> None:
    declared = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, IngleError)}
    assert set(KINDS) == declared
    assert len(KINDS) > 20


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_says_what_went_wrong_in_one_sentence(kind: type[IngleError]) -> None:
    sentence = kind.__doc__ or ""
    assert sentence[0].isupper()
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert str(example(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_a_code_of_its_own(kind: type[IngleError]) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
    assert [other.__name__ for other in KINDS if other.code == kind.code] == [kind.__name__]


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_may_succeed_later_is_retryable(kind: type[IngleError]) -> None:
    assert kind.retryable is (kind.__name__ in RETRYABLE)


@pytest.mark.parametrize("kind", KINDS)
def test_no_error_knows_a_status(kind: type[IngleError]) -> None:
    assert not [name for name in (*vars(kind), *vars(example(kind))) if "status" in name]


def test_the_docstring_is_the_message_when_there_is_none() -> None:
    assert str(errors.ModelLoading()) == errors.ModelLoading.__doc__
    assert str(errors.ModelLoading("wait")) == "wait"


def test_details_carry_figures() -> None:
    error = errors.InsufficientMemory("too big", needed_bytes=5, available_bytes=3)
    assert error.details == {"needed_bytes": 5, "available_bytes": 3}


def test_a_refused_field_is_named() -> None:
    assert InvalidRequest("no", field="top_p").field == "top_p"
    assert InvalidRequest("no").field is None


def test_an_overflow_names_both_numbers() -> None:
    error = ContextLengthExceeded(5000, 4096)
    assert "5000" in str(error)
    assert "4096" in str(error)
    assert error.details == {"prompt_tokens": 5000, "context_length": 4096}


def test_an_unknown_model_comes_with_the_nearest_names() -> None:
    error = ModelNotFound("qwem", ["qwen:0.5b", "qwen:3b"])
    assert str(error) == "model 'qwem' not found: did you mean 'qwen:0.5b' or 'qwen:3b'?"
    assert error.details == {"nearest": ["qwen:0.5b", "qwen:3b"]}


def test_a_model_of_the_catalogue_comes_with_the_command_that_pulls_it() -> None:
    assert "`ingle models pull qwen:3b`" in str(ModelNotFound("qwen:3b", [], pull="qwen:3b"))


def test_a_missing_device_comes_with_the_devices_there_are() -> None:
    error = DeviceNotAvailable("cuda:7", ["cpu", "cuda:0"], "no such GPU")
    assert str(error) == "device 'cuda:7' is not available here (no such GPU): choose one of cpu, cuda:0"
    assert error.details == {"available": ["cpu", "cuda:0"]}


def test_an_overload_says_when_to_come_back() -> None:
    assert Overloaded(retry_after_seconds=12.0).retry_after_seconds == 12.0
    assert Overloaded().retry_after_seconds > 0

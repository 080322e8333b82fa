from dataclasses import FrozenInstanceError, replace

import pytest

from domain.errors import InvalidRequest, ModelNotLoaded
from domain.model import MAX_CONTEXT_LENGTH, LoadOptions, Model, Task
from tests.fakes.models import text_spec

SPEC = text_spec("tiny:1b")


def in_memory(device: str = "cpu", context_length: int = 4096) -> Model:
    return Model(SPEC).loaded(
        device=device,
        dtype="bfloat16",
        quantization="int8",
        context_length=context_length,
        memory_bytes=600,
        load_time_ms=1200,
    )


def test_a_model_tells_what_its_spec_says() -> None:
    model = Model(SPEC)
    assert (model.id, model.name, model.task) == ("tiny:1b", SPEC.title, Task.TEXT)
    assert not model.is_loaded


def test_loading_gives_a_new_model_with_the_figures_of_the_load() -> None:
    model = in_memory()
    assert model.is_loaded
    assert (model.device, model.dtype, model.quantization) == ("cpu", "bfloat16", "int8")
    assert (model.context_length, model.memory_bytes, model.load_time_ms) == (4096, 600, 1200)
    assert not Model(SPEC).is_loaded


def test_unloading_forgets_where_the_model_was() -> None:
    assert in_memory().unloaded() == Model(SPEC)


def test_a_model_that_is_not_in_memory_cannot_be_unloaded() -> None:
    with pytest.raises(ModelNotLoaded, match="tiny:1b"):
        Model(SPEC).unloaded()


def test_a_model_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        in_memory().device = "cuda:0"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "device", "fits"),
    [
        (LoadOptions(), "cpu", True),
        (LoadOptions(device="cpu"), "cpu", True),
        (LoadOptions(device="cuda"), "cpu", False),
        (LoadOptions(device="cuda"), "cuda:1", True),
        (LoadOptions(device="cuda:1"), "cuda:1", True),
        (LoadOptions(device="cuda:1"), "cuda:0", False),
        (LoadOptions(device="cpu"), "cuda:0", False),
        (LoadOptions(dtype="bfloat16"), "cpu", True),
        (LoadOptions(dtype="float32"), "cpu", False),
        (LoadOptions(quantization="int8"), "cpu", True),
        (LoadOptions(quantization="none"), "cpu", False),
        (LoadOptions(num_ctx=4096), "cpu", True),
        (LoadOptions(num_ctx=100), "cpu", True),
        (LoadOptions(num_ctx=4097), "cpu", False),
    ],
)
def test_a_model_in_memory_satisfies_what_it_is_or_surpasses(options: LoadOptions, device: str, fits: bool) -> None:
    assert in_memory(device).satisfies(options) is fits


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:15"])
def test_devices_that_may_exist_are_accepted(device: str) -> None:
    assert LoadOptions(device=device).device == device


@pytest.mark.parametrize(
    "device", ["", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:1234", "cuda:0\n", "cpu:0", "mps", "../cpu"]
)
def test_devices_that_exist_nowhere_are_refused(device: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        LoadOptions(device=device)
    assert caught.value.field == "device"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"dtype": "int8"}, "dtype"),
        ({"dtype": ""}, "dtype"),
        ({"quantization": "int4"}, "quantization"),
        ({"num_ctx": -1}, "num_ctx"),
        ({"num_ctx": MAX_CONTEXT_LENGTH + 1}, "num_ctx"),
    ],
)
def test_other_options_out_of_range_are_refused_by_name(options: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        LoadOptions(**options)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_defaults_fill_only_what_was_left_open() -> None:
    defaults = LoadOptions(device="cpu", dtype="bfloat16", quantization="int8", num_ctx=8192)
    assert LoadOptions().completed_by(defaults) == defaults
    assert LoadOptions("cuda:0", "float16", "none", 512).completed_by(defaults) == LoadOptions(
        "cuda:0", "float16", "none", 512
    )
    assert LoadOptions(num_ctx=512).completed_by(defaults) == replace(defaults, num_ctx=512)

"""Where and in what precision a text model runs: a wish is obeyed or refused, and what nobody wishes is chosen."""

import pytest

from domain.errors import DeviceNotAvailable, InvalidRequest
from domain.model import LoadOptions
from models.text.kernel_choice import PRECISIONS, choice_by, chosen, int8_products_are_exact, measured
from models.text.placement import place_text

EXACT = int8_products_are_exact()


def test_what_nobody_wishes_is_what_was_chosen_for_this_processor() -> None:
    placement = place_text(LoadOptions(device="cpu"))
    assert (placement.precision, placement.kernel) == (chosen().precision, chosen().reason)
    assert place_text(LoadOptions(device="cpu", quantization="none")).precision == chosen(int8=False).precision


def test_everything_that_this_processor_can_do_is_measured() -> None:
    assert [name for name in PRECISIONS if name in measured()] == list(measured())
    assert ("int8" in measured()) == EXACT
    assert all(taken > 0 for taken in measured().values())


@pytest.mark.parametrize(
    ("seconds", "name"),
    [
        ({"int8": 1.0, "bfloat16": 3.0, "float32": 6.0}, "int8"),
        ({"int8": 1.0, "bfloat16": 0.7, "float32": 6.0}, "int8"),
        ({"int8": 1.0, "bfloat16": 0.6, "float32": 0.5}, "float32"),
        ({"bfloat16": 9.0, "float32": 3.0}, "float32"),
        ({"float32": 3.0}, "float32"),
    ],
)
def test_the_first_of_the_ladder_is_left_only_for_one_that_is_clearly_quicker(
    seconds: dict[str, float], name: str
) -> None:
    assert choice_by(seconds).name == name
    assert name in choice_by(seconds).reason


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dtype_is_obeyed(dtype: str) -> None:
    for quantization in ("auto", "none"):
        placement = place_text(LoadOptions(device="cpu", dtype=dtype, quantization=quantization))
        assert (placement.quantization, placement.dtype) == ("none", dtype)


def test_a_dtype_that_processors_lack_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="bfloat16 or float32") as refused:
        place_text(LoadOptions(device="cpu", dtype="float16"))
    assert refused.value.field == "dtype"


def test_int8_is_obeyed_where_it_loses_no_bit_and_else_refused() -> None:
    options = LoadOptions(device="cpu", quantization="int8")
    if EXACT:
        assert place_text(options).quantization == "int8"
        with pytest.raises(InvalidRequest) as refused:
            place_text(LoadOptions(device="cpu", quantization="int8", dtype="bfloat16"))
        assert refused.value.field == "dtype"
    else:
        with pytest.raises(InvalidRequest) as refused:
            place_text(options)
        assert refused.value.field == "quantization"


def test_a_device_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(DeviceNotAvailable, match="cpu"):
        place_text(LoadOptions(device="cuda:63"))

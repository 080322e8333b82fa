"""Where and in what precision a text model runs: a wish is obeyed or refused, and what nobody wishes is chosen."""

import pytest

from domain.errors import DeviceNotAvailable, InvalidRequest
from domain.model import LoadOptions
from models.text.placement import cpu_has_bfloat16, int8_products_are_exact, place_text

EXACT = int8_products_are_exact()


def test_what_nobody_wishes_is_chosen_by_what_the_processor_can_do() -> None:
    placement = place_text(LoadOptions(device="cpu"))
    if EXACT:
        assert (placement.quantization, placement.dtype) == ("int8", "float32")
    else:
        assert (placement.quantization, placement.dtype) == ("none", "bfloat16" if cpu_has_bfloat16() else "float32")
    assert placement.kernel


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

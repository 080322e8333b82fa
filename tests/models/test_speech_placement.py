"""On which device a recogniser goes. No GPU is needed: what devices can hold is told."""

from dataclasses import replace

import pytest

from domain.model import ModelSpec, Task, WeightFormat
from models.speech.loader import Fallen
from models.speech_placement import SpeechPlacement, place_speech

GIB = 1 << 30
LARGE = ModelSpec(
    "whisper:large", "", Task.SPEECH, WeightFormat.CTRANSLATE2, parameters=1_500_000_000, size_bytes=3 * GIB
)


def placed(
    ceiling: float, device: str = "cuda:0", wanted: str = "auto", *, may_fall: bool = True, fallen: Fallen | None = None
) -> SpeechPlacement:
    return place_speech(
        LARGE, device, wanted, lambda _where: int(ceiling * GIB), threads=2, may_fall=may_fall, fallen=fallen
    )


def test_a_gpu_with_room_gets_half_precision() -> None:
    placement = placed(24)
    assert (placement.need.device, placement.too_large, placement.fallen) == ("cuda:0", frozenset(), None)
    assert 3 * GIB < placement.need.total < 4 * GIB


def test_a_small_gpu_gets_the_best_that_it_can_hold() -> None:
    placement = placed(2)
    assert placement.too_large == {"float16", "float32"}
    assert placement.need.total < 2 * GIB
    assert placement.fallen is None


def test_a_gpu_that_can_hold_nothing_leaves_it_to_the_cpu_and_every_answer_says_so() -> None:
    placement = placed(1)
    assert placement.need.device == "cpu"
    assert placement.fallen is not None
    assert placement.fallen.caveat.code == "cpu_fallback"
    assert "does not fit into the memory of cuda:0" in placement.fallen.caveat.message


@pytest.mark.parametrize("wanted", ["auto", "float32"])
def test_a_gpu_that_was_asked_for_by_name_is_not_left(wanted: str) -> None:
    placement = placed(1, wanted=wanted, may_fall=False, fallen=Fallen("it failed"))
    assert (placement.need.device, placement.fallen, placement.too_large) == ("cuda:0", None, frozenset())


def test_a_gpu_that_failed_once_is_not_counted_on_again() -> None:
    fallen = Fallen("its text is empty")
    assert placed(24, fallen=fallen) == SpeechPlacement(placed(1, device="cpu").need, fallen=fallen)


@pytest.mark.parametrize(("threads", "megabytes", "lanes"), [(1, 150, 1), (2, 150, 2), (16, 150, 4), (16, 1500, 1)])
def test_on_a_cpu_a_small_model_has_lanes_each_with_its_own_weights(threads: int, megabytes: int, lanes: int) -> None:
    small = replace(LARGE, parameters=megabytes * 500_000, size_bytes=megabytes * 1_000_000)
    placement = place_speech(small, "cpu", "int8", lambda _where: 0, threads=threads, may_fall=False)
    alone = place_speech(small, "cpu", "int8", lambda _where: 0, threads=1, may_fall=False)
    assert (placement.lanes, placement.need.weights) == (lanes, lanes * alone.need.weights)


def test_who_asked_for_the_cpu_hears_of_no_fallback() -> None:
    assert placed(24, device="cpu", fallen=Fallen("it failed")).fallen is None

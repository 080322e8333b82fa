"""On which device a recogniser goes. No GPU is needed: what devices can hold is told."""

import pytest

from domain.model import ModelSpec, Task, WeightFormat
from models.speech.loader import Fallen
from models.speech_placement import SpeechPlacement, place_speech

GIB = 1 << 30
LARGE = ModelSpec("whisper:large", "", Task.SPEECH, WeightFormat.CTRANSLATE2, parameters=1_500_000_000)


def placed(
    ceiling: float, device: str = "cuda:0", wanted: str = "auto", *, may_fall: bool = True, fallen: Fallen | None = None
) -> SpeechPlacement:
    return place_speech(LARGE, device, wanted, lambda _where: int(ceiling * GIB), may_fall=may_fall, fallen=fallen)


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


def test_who_asked_for_the_cpu_hears_of_no_fallback() -> None:
    assert placed(24, device="cpu", fallen=Fallen("it failed")).fallen is None

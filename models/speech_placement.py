"""On which device a recogniser goes, and in which compute types it is tried there."""

from collections.abc import Callable
from dataclasses import dataclass

from domain.memory import MemoryNeed
from domain.model import ModelSpec
from models import forecast
from models.speech.ladder import CUDA_LADDER
from models.speech.lanes import lanes_for
from models.speech.loader import Fallen


@dataclass(frozen=True, slots=True)
class SpeechPlacement:
    """What a load needs and where; `too_large` are compute types that can never fit there.

    `lanes` are how many copies of the weights work side by side. `fallen` tells why it is the CPU although there is a
    GPU and nobody asked for the CPU.
    """

    need: MemoryNeed
    too_large: frozenset[str] = frozenset()
    fallen: Fallen | None = None
    lanes: int = 1


def place_speech(
    spec: ModelSpec,
    device: str,
    compute_type: str,
    ceiling: Callable[[str], int],
    *,
    threads: int,
    may_fall: bool,
    fallen: Fallen | None = None,
) -> SpeechPlacement:
    """For `device`, made concrete, where a CPU gives `threads`.

    `ceiling` is what a device could give if every model left it, in bytes. A GPU gets the best compute type that it can
    hold. One that can hold none, or that has failed with this model before (`fallen`), leaves it to the CPU if the
    model `may_fall`.
    """
    if device == "cpu":
        return _on_cpu(spec, compute_type, threads)
    if compute_type != "auto":
        need = forecast.speech_need(spec, device, compute_type)
        fits, too_large = need.total <= ceiling(device), frozenset[str]()
    else:
        most = ceiling(device)
        needs = {rung: forecast.speech_need(spec, device, rung) for rung in CUDA_LADDER}
        too_large = frozenset(rung for rung, one in needs.items() if one.total > most)
        fits = len(too_large) < len(needs)
        need = next((one for rung, one in needs.items() if rung not in too_large), needs["int8_float16"])
    if may_fall and (fallen is not None or not fits):
        reason = fallen or Fallen(f"'{spec.id}' does not fit into the memory of {device}")
        return _on_cpu(spec, compute_type, threads, reason)
    return SpeechPlacement(need, too_large if fits else frozenset())


def _on_cpu(spec: ModelSpec, compute_type: str, threads: int, fallen: Fallen | None = None) -> SpeechPlacement:
    lanes = lanes_for(threads, spec.size_bytes)
    return SpeechPlacement(forecast.speech_need(spec, "cpu", compute_type, lanes), fallen=fallen, lanes=lanes)

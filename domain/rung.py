"""The ladder of compute types that a load climbs down until one works."""

from dataclasses import dataclass
from enum import StrEnum


class RungVerdict(StrEnum):
    """What became of a rung; a rejected one loaded, and then did not hear what it should."""

    USED = "used"
    REJECTED = "rejected"
    NO_MEMORY = "no_memory"


@dataclass(frozen=True, slots=True)
class Rung:
    """One attempt of a load: `seconds` that it took, and why it is not used, in words."""

    device: str
    compute_type: str
    verdict: RungVerdict
    seconds: float
    reason: str = ""

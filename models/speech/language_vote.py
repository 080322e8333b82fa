"""Which language a recording is in: the first window decides, and only if it is unsure the first three together."""

from collections.abc import Mapping, Sequence

SURE = 0.5
VOTERS = 3


def likeliest(heard: Sequence[Mapping[str, float]], among: Sequence[str] = ()) -> list[tuple[str, float]]:
    """Languages by their mean probability, the likeliest first; of those `among`, if any, which then sum up to 1."""
    codes = [code for code in heard[0] if not among or code in among]
    means = {code: sum(probabilities[code] for probabilities in heard) / len(heard) for code in codes}
    total = sum(means.values()) if among else 1.0
    return sorted(((code, mean / total if total else 0.0) for code, mean in means.items()), key=lambda one: -one[1])


class LanguageVote:
    """Hears the probabilities of windows by their number, until there is a verdict."""

    def __init__(self, among: Sequence[str] = ()) -> None:
        self._among = among
        self._heard: dict[int, Mapping[str, float]] = {}
        self.verdict: tuple[str, float] | None = None

    @property
    def is_unsure(self) -> bool:
        """Whether the first window was not enough."""
        return bool(self._heard) and self.verdict is None

    def wants(self, number: int) -> bool:
        """Whether window `number` is to be listened to for its language."""
        if self.verdict is not None or number in self._heard:
            return False
        return number == 0 or (self.is_unsure and number < VOTERS)

    def hear(self, number: int, probabilities: Mapping[str, float]) -> None:
        """What window `number` sounds like."""
        self._heard[number] = probabilities
        best = likeliest([probabilities], self._among)[0]
        if number == 0 and best[1] >= SURE:
            self.verdict = best
        elif len(self._heard) >= VOTERS:
            self.close()

    def close(self) -> None:
        """There is no more to be heard: what was heard has to do."""
        if self._heard and self.verdict is None:
            self.verdict = likeliest(list(self._heard.values()), self._among)[0]

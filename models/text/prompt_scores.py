"""How probable the tokens of a prompt are to the model: what a sequence gathers while its prompt is read."""

from dataclasses import dataclass, field

# A token, the natural logarithm of its probability, and the most probable tokens at its place, the best first.
Score = tuple[int, float, tuple[tuple[int, float], ...]]


@dataclass(slots=True)
class PromptScores:
    """The scores of a prompt's second token and those after it, as far as they are known, `top` alternatives each.

    They outlive a preemption: what is known is not asked for again.
    """

    prompt_length: int
    top: int
    known: list[Score] = field(default_factory=list)

    @property
    def are_complete(self) -> bool:
        """Whether every token but the first has its score."""
        return len(self.known) >= self.prompt_length - 1

    def wanted(self, start: int, count: int) -> range:
        """The positions among `count` from `start` on whose next token still has to be scored."""
        return range(max(start, len(self.known)), min(start + count, self.prompt_length - 1))

"""Start-time fair queueing without a scheduler: a job gets its place in the line of its model profile when it is made.

Owners with work share by weight, because each job moves its owner's next tag on by cost ÷ weight; an owner that was
away starts at what is served now, so it neither owes nor has saved anything.
"""

USUAL_BYTES_PER_SECOND = 16_000


def first_tag(served: float | None, floor: float | None, own_last: float | None, step: float) -> float:
    """The tag of an owner's next job.

    `served` is the largest tag that was ever claimed on the profile, `floor` the largest served tag whose row is gone,
    `own_last` the owner's largest tag there; `step` is `step_of` the job.
    """
    behind = [tag for tag in (served, floor) if tag is not None]
    if own_last is not None:
        behind.append(own_last + step)
    return max(behind, default=0.0)


def step_of(cost: float, weight: float) -> float:
    """How far a job of `cost` moves an owner of `weight`."""
    return cost / weight


def chat_cost(characters: int, max_tokens: int) -> float:
    """The estimate for a chat, 1 being 512 tokens read and written."""
    return max(1.0, (characters / 4 + max_tokens) / 512)


def transcription_cost(seconds: float) -> float:
    """The estimate for a transcription: its minutes."""
    return max(1.0, seconds / 60)


def recording_cost(size: int) -> float:
    """The estimate for a recording of `size` bytes that nobody has decoded yet: its minutes at 128 kbit/s."""
    return transcription_cost(size / USUAL_BYTES_PER_SECOND)

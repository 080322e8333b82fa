"""How many threads the kernels of a step use; each thread that starts steps has its own count."""

import torch


def use_threads(count: int) -> None:
    """Let what the calling thread starts be computed by `count` threads from now on; 0 leaves that as it is."""
    if count and torch.get_num_threads() != count:
        torch.set_num_threads(count)

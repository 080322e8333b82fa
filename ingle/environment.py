"""What libraries read from the environment once, when they are first imported: so it must be there before that."""

import os

_SETTINGS = {
    # Kernel threads sleep while they wait for each other. Spinning, they take the cores from the event loop and
    # from the clients, and where a core is shared one step takes ten times as long.
    "OMP_WAIT_POLICY": "passive",
    # Loading and serving local models opens no connection.
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def prepare() -> None:
    """Set what is not set yet. Call it before anything imports torch, transformers or CTranslate2."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)

"""The sources of a deployment, made from plain values."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from models.sources.http import HttpClient, Patience
from models.sources.hub import HUB_FILE_HOSTS, HubSource
from models.sources.index import PYPI_FILE_HOSTS, IndexSource
from models.sources.local import LocalSource
from models.sources.source import Source

PYPI = "https://pypi.org/simple"
HUGGING_FACE = "https://huggingface.co"


def registries(
    *,
    index_url: str = PYPI,
    hub_url: str = HUGGING_FACE,
    hub_token: str | None = None,
    pull_hosts: Sequence[str] = (),
    local_directory: Path | None = None,
    patience: Patience | None = None,
) -> Mapping[str, Source]:
    """The sources for a ModelStore, by their names.

    `index_url` is the base of a simple API and may carry credentials. `pull_hosts` are hosts, or `*.domains`,
    that an index or a hub may send us to besides itself and its own file hosts. Opens no connection.
    """
    patience = patience or Patience()
    index = HttpClient(index_url, (*PYPI_FILE_HOSTS, *pull_hosts), patience=patience)
    hub = HttpClient(hub_url, (*HUB_FILE_HOSTS, *pull_hosts), bearer=hub_token, patience=patience)
    sources: dict[str, Source] = {"index": IndexSource(index), "hub": HubSource(hub)}
    if local_directory is not None:
        sources["local"] = LocalSource(local_directory)
    return sources

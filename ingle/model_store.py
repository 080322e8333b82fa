"""The store of models as the settings want it. Light: nothing here imports what runs weights."""

from collections.abc import Mapping

from ingle.settings import Settings
from models.catalog import Catalog
from models.sources.registries import registries
from models.store import ModelStore, PullLimits

GIB = 1 << 30


def open_store(settings: Settings) -> ModelStore:
    """The models folder with the sources and the names that the operator chose; touches neither disk nor network."""
    return ModelStore(
        settings.models_dir,
        Catalog.load(),
        registries(index_url=settings.index_url, hub_url=settings.hub_url, pull_hosts=settings.pull_hosts),
        aliases=aliases(settings),
        limits=PullLimits(int(settings.disk_floor_gb * GIB), int(settings.max_pull_gb * GIB)),
    )


def aliases(settings: Settings) -> Mapping[str, str]:
    """The seeds' names for whatever is the default here, and the operator's own aliases, which outrank them."""
    stand_ins = {"qwen-model_full": settings.default_model, "whisper-1": settings.default_speech_model}
    return {**stand_ins, **settings.model_aliases}

"""The store of models as the settings want it. Light: nothing here imports what runs weights."""

from collections.abc import Mapping

from ingle.settings import Settings
from ingle.settings_sources import BadSettings
from models.catalog import Catalog
from models.operator_models import OperatorModels
from models.sources.registries import registries
from models.store import ModelStore, PullLimits

GIB = 1 << 30
MODELS_FILE = "models.toml"


def open_store(settings: Settings) -> ModelStore:
    """The models folder with the sources and the names that the operator chose.

    Reads models.toml and touches nothing else. Raises BadSettings for what is wrong in it.
    """
    operators = operator_models(settings)
    sources = registries(
        index_url=settings.index_url,
        hub_url=settings.hub_url,
        hub_token=settings.hub_token.get_secret_value() if settings.hub_token else None,
        pull_hosts=settings.pull_hosts,
    )
    return ModelStore(
        settings.models_dir,
        operators.over(Catalog.load()),
        sources,
        aliases=aliases(settings),
        limits=PullLimits(int(settings.disk_floor_gb * GIB), int(settings.max_pull_gb * GIB)),
        operators=operators,
    )


def operator_models(settings: Settings) -> OperatorModels:
    """What models.toml says; nothing where it is not there and nobody named it. Raises BadSettings."""
    path = settings.models_file or settings.data_dir / MODELS_FILE
    if settings.models_file is None and not path.exists():
        return OperatorModels()
    try:
        return OperatorModels.load(path)
    except OSError as error:
        raise BadSettings([f"models_file: {path} cannot be read: {error.strerror}"]) from None
    except ValueError as error:
        raise BadSettings([str(error)]) from None


def aliases(settings: Settings) -> Mapping[str, str]:
    """The seeds' names for whatever is the default here, and the operator's own aliases, which outrank them."""
    stand_ins = {"qwen-model_full": settings.default_model, "whisper-1": settings.default_speech_model}
    return {**stand_ins, **settings.model_aliases}

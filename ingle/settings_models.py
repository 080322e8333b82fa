"""Settings of where models come from."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from ingle.settings_marks import From, Shown


class ModelSourceSettings(BaseSettings):
    """What the operator says of models and their sources."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    models_file: Annotated[
        Annotated[Path, AfterValidator(Path.expanduser)] | None, Shown("<data_dir>/models.toml, if it is there")
    ] = None
    """Further models, and how each is wanted in memory: see docs/models.md."""

    hub_token: Annotated[SecretStr | None, From("HF_TOKEN")] = None
    """Token for gated repositories of the model hub. It is sent to the hub itself and to nobody else."""

"""Settings of the providers that need no models.toml: `LLM_BASE_URL`, `WHISPERX_URL` and what goes with them."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from domain.model import MAX_CONTEXT_LENGTH
from ingle.settings_marks import From
from ingle.settings_types import Names, Seconds


class ProviderSettings(BaseSettings):
    """A server for text and one for speech, and the one model of each that is offered here."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    llm_base_url: Annotated[str | None, From("LLM_BASE_URL")] = None
    """Server that speaks OpenAI's API, such as `https://llm.example/v1`; requests for `LLM_MODEL` go there."""

    llm_api_key: Annotated[SecretStr | None, From("LLM_API_KEY")] = None
    """Key for that server. It is sent there and shown nowhere."""

    llm_api_key_file: Annotated[Annotated[Path, AfterValidator(Path.expanduser)] | None, From("LLM_API_KEY_FILE")] = (
        None
    )
    """File that holds the key instead."""

    llm_model: Annotated[str | None, From("LLM_MODEL")] = None
    """Model of that server, by its name there; it is offered here as that and as `llm`. Unset, `qwen2.5-14b`."""

    llm_timeout: Annotated[Seconds, From("LLM_TIMEOUT")] = 300.0
    """How long a request to that server may take, retries included."""

    llm_context_length: Annotated[int, Field(ge=0, le=MAX_CONTEXT_LENGTH)] = 0
    """Tokens of context of that model; 0 means that it is not known."""

    llm_capabilities: Names = ("completion", "tools")
    """What that model can do: `completion`, `tools`, `thinking`, `insert`."""

    llm_extensions: Names = ()
    """Fields beside OpenAI's own that the server honours, such as `top_k`: the others are refused, not sent."""

    whisperx_url: Annotated[str | None, From("WHISPERX_URL")] = None
    """Server that writes down recordings for the model `whisperx`: `https://host/v1/audio/transcriptions` as OpenAI,
    `http://host:9000/asr` or no path as whisper-asr-webservice. Unset, jobs for `whisperx` run here."""

    whisperx_api_key: Annotated[SecretStr | None, From("WHISPERX_API_KEY")] = None
    """Key for that server. It is sent there and shown nowhere."""

    whisperx_api_key_file: Annotated[
        Annotated[Path, AfterValidator(Path.expanduser)] | None, From("WHISPERX_API_KEY_FILE")
    ] = None
    """File that holds the key instead."""

    whisperx_model: Annotated[str, From("WHISPERX_MODEL")] = "whisper-1"
    """Model of that server, by its name there, where it is spoken to as OpenAI."""

    whisperx_timeout: Annotated[Seconds, From("WHISPERX_TIMEOUT")] = 3600.0
    """How long a recording may take there, retries included."""

"""Settings of fetches from addresses that clients name."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from ingle.settings_types import Names, Seconds, split


class FetchSettings(BaseSettings):
    """Where this server may go on a client's word."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    fetch_allow_cidrs: Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(split)] = ()
    """Networks, such as `192.168.1.0/24`, that fetches and webhooks may reach beside public addresses."""

    fetch_allow_hosts: Names = ()
    """Hosts, such as `nas.home` or `*.lan.example`, that they may reach at any address but those of cloud metadata."""

    fetch_ports: Annotated[
        tuple[Annotated[int, Field(ge=1, le=65535)], ...], BeforeValidator(split), Field(min_length=1)
    ] = (80, 443)
    """Ports that they may reach."""

    fetch_timeout: Seconds = 120.0
    """How long a fetch may take."""

"""Who can reach the server, and what is said about it."""

import asyncio
import ipaddress
import os

import structlog

HOUR = 3600.0
_IN_A_CONTAINER = ("/.dockerenv", "/run/.containerenv")
_log = structlog.get_logger("ingle")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`; of a name that is not localhost nobody knows, so it counts as one."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def say_who_can_reach(host: str, *, has_keys: bool) -> bool:
    """Warn of a server that anybody may use, or that nobody reaches; whether the first is so."""
    if not is_loopback(host):
        if not has_keys:
            _warn_of_openness()
        return not has_keys
    if any(map(os.path.exists, _IN_A_CONTAINER)):
        _log.warning(
            "this server answers only inside its container",
            advice="make a key with `ingle keys new`, which opens it to the network, or set HTTP_HOST=0.0.0.0 and "
            "publish the port to 127.0.0.1 or to a proxy that asks for keys",
        )
    return False


async def keep_warning() -> None:
    """Say once an hour that anybody may use this server."""
    while True:
        await asyncio.sleep(HOUR)
        _warn_of_openness()


def _warn_of_openness() -> None:
    _log.warning(
        "ANYBODY in this network may use this server: it asks for no key",
        advice="make keys with `ingle keys new` and name their file in INGLE_API_KEYS_FILE; or listen on 127.0.0.1; "
        "or let a proxy that asks for keys stand in front of it",
    )

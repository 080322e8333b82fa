"""The keys of a server: found in the settings, and watched while it runs."""

import asyncio
import signal

from domain.key_ring import BadKey
from infrastructure.key_file import KeptKeys
from ingle.settings import Settings
from ingle.settings_sources import BadSettings

LOOK_SECONDS = 1.0


def keys_of(settings: Settings) -> KeptKeys | None:
    """The keys, None where none are configured. Raises BadSettings.

    A file that is named and holds no key lets nobody in: whoever takes the last key away wants the door closed.
    """
    if not settings.has_keys:
        return None
    try:
        return KeptKeys(settings.api_keys, settings.api_keys_file)
    except BadKey as error:
        raise BadSettings([f"INGLE_API_KEYS_FILE: {error}; `ingle keys new` makes such a file"]) from None


async def watch(keys: KeptKeys) -> None:
    """Read the file again when it has changed, within moments, and on SIGHUP."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, asked.set)
    try:
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await asked.wait()
            except TimeoutError:
                pass
            force = asked.is_set()
            asked.clear()
            await asyncio.to_thread(keys.refresh, force=force)
    finally:
        loop.remove_signal_handler(signal.SIGHUP)

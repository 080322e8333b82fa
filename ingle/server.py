"""The HTTP server around an application: listens, serves, drains, closes."""

import asyncio
import contextlib
import ipaddress
import logging
import math
import os
import signal
import socket
from collections.abc import Generator, Sequence

import structlog
import uvicorn

from api.app import create_app
from application.model_pool import ModelPool
from domain.errors import IngleError
from ingle.bootstrap import build
from ingle.settings import Settings

_BACKLOG = 2048
_log = structlog.get_logger("ingle")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family, backlog=_BACKLOG)


async def serve(settings: Settings, listener: socket.socket) -> bool:
    """Serve on `listener` until SIGTERM or SIGINT, then drain and close; False if the server could not start."""
    application = build(settings)
    config = uvicorn.Config(
        create_app(application.services),
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.drain),
    )
    server = _Server(config)
    preloading = asyncio.create_task(_preload(application.pool, settings.preload_models), name="preload")
    try:
        await server.serve(sockets=[listener])
    finally:
        preloading.cancel()
        await application.close()
        _log.info("stopped")
    return server.started


class _Server(uvicorn.Server):
    """Uvicorn that leaves signals to us: its own handling would kill the process before the models are closed."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self._stop, number)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def _stop(self, number: signal.Signals) -> None:
        if self.should_exit:
            _log.warning("stopping at once", signal=number.name)
            os._exit(1)
        _log.info("stopping when the work in flight is done", signal=number.name)
        self.should_exit = True

    async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
        await super().startup(list(sockets or ()))
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            _log.info("serving", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")
            if not ipaddress.ip_address(host).is_loopback:
                _log.warning(
                    "this server is open to its network and asks nobody for a key",
                    advice="listen on 127.0.0.1, or let a proxy that asks for keys stand in front of it",
                )


async def _preload(pool: ModelPool, names: Sequence[str]) -> None:
    for name in names:
        try:
            await pool.load(name)
        except IngleError as error:  # the server can still serve its other models
            _log.error("preload failed", model=name, code=error.code, reason=str(error))

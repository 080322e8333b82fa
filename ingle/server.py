"""The HTTP server around an application: listens, serves, drains, closes."""

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import time
from collections.abc import Generator, Sequence
from dataclasses import replace

import structlog
import uvicorn

from api.app import create_app
from api.protocol import ConnectionLimits, limited_protocol
from application.model_pool import ModelPool
from domain.errors import IngleError
from ingle import environment
from ingle.bootstrap import Application, build
from ingle.exposure import keep_warning, say_who_can_reach
from ingle.job_application import JobApplication, job_application, with_jobs
from ingle.keys import watch
from ingle.settings import Settings
from models.store import ModelStore

LAST_WORDS = 5
"""Seconds that callers whose work was ended have to read why."""

_log = structlog.get_logger("ingle")


async def serve(settings: Settings, listener: socket.socket) -> bool:
    """Serve on `listener` until SIGTERM or SIGINT, then drain and close; False if the server could not start."""
    application = build(settings)
    _settle(application, settings)
    jobs = job_application(settings, application.services)
    stopping = asyncio.Event()
    services = with_jobs(application.services, jobs)
    services = replace(services, readiness={**services.readiness, "serving": lambda: not stopping.is_set()})
    config = uvicorn.Config(
        create_app(services),
        http=limited_protocol(ConnectionLimits(), f"{services.name}/{services.version}"),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    server = _Server(config, stopping, settings.lame_duck)
    beside = [
        asyncio.create_task(_preload(application.pool, _preloaded(application, settings)), name="preload"),
        asyncio.create_task(application.pool.watch_memory(), name="memory"),
        asyncio.create_task(_sweep(application.store), name="sweep"),
    ]
    if application.keys is not None:
        beside.append(asyncio.create_task(watch(application.keys), name="keys"))
    if say_who_can_reach(listener.getsockname()[0], has_keys=application.keys is not None):
        beside.append(asyncio.create_task(keep_warning(), name="warnings"))
    working = asyncio.create_task(_work(jobs, server), name="jobs")
    draining = asyncio.create_task(_drain(server, application.pool, jobs, settings.drain), name="drain")
    try:
        await server.serve(sockets=[listener])
    finally:
        server.leaving.set()
        # Jobs end, or are given back, while their models and their database are still there.
        await asyncio.gather(draining, return_exceptions=True)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await application.close()
        await jobs.close()
        _log.info("stopped")
    return server.started


def _settle(application: Application, settings: Settings) -> None:
    """Before anybody listens: do what would hold up the event loop later."""
    defaults = (settings.default_model, settings.default_speech_model)
    application.repository.prepare([*defaults, *_preloaded(application, settings)])
    environment.settle()


def _preloaded(application: Application, settings: Settings) -> Sequence[str]:
    """The models that are wanted in memory from the start, by the settings and by models.toml."""
    wanted = [spec.id for spec in application.repository.installed() if spec.residence.preload]
    return list(dict.fromkeys([*settings.preload_models, *wanted]))


class _Server(uvicorn.Server):
    """Uvicorn that leaves signals to us: its own handling would kill the process before the models are closed."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event, lame_duck: float) -> None:
        super().__init__(config)
        self._lame_duck = lame_duck
        self.stopping = stopping
        self.leaving = asyncio.Event()
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
        if self.stopping.is_set():
            _log.warning("stopping at once", signal=number.name)
            os._exit(1)
        _log.info("stopping when the work in flight is done", signal=number.name)
        self.stopping.set()
        # Until whoever routes requests to us has seen that we are not ready, they are still served.
        asyncio.get_running_loop().call_later(self._lame_duck, self.leave)

    def leave(self) -> None:
        """Begin nothing new, and end when what is under way has."""
        self.stopping.set()
        self.leaving.set()

    def end(self, within: float) -> None:
        """Take no more requests; those in flight may take `within` seconds, and have their last words after that."""
        self.config.timeout_graceful_shutdown = math.ceil(within) + LAST_WORDS
        self.should_exit = True

    async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
        await super().startup(list(sockets or ()))
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            _log.info("serving", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")


async def _drain(server: "_Server", pool: ModelPool, jobs: JobApplication, drain: float) -> None:
    """When it is time to leave, let what is under way end within `drain` seconds.

    Until it has, the server answers: workers elsewhere settle their jobs, and whoever wants a model hears why not.
    """
    await server.leaving.wait()
    deadline = time.monotonic() + drain
    try:
        await asyncio.gather(jobs.stop(drain), _end_lending(pool, drain))
    finally:
        server.end(max(0.0, deadline - time.monotonic()))


async def _end_lending(pool: ModelPool, drain: float) -> None:
    """After `drain` seconds end the work in flight, so that its callers hear of it before they are cut off."""
    try:
        async with asyncio.timeout(drain):
            await pool.drain()
    except TimeoutError:
        _log.warning("ending the work that is still in flight", drain_seconds=drain)
        await asyncio.shield(pool.close())  # cancelling it would cancel the unloads, which the end waits for


async def _work(jobs: JobApplication, server: "_Server") -> None:
    """Run jobs; a database that this version must not touch ends the server."""
    try:
        await jobs.run()
    except IngleError as error:
        _log.error("the database of jobs cannot be used", code=error.code, reason=str(error))
        server.leave()


async def _sweep(store: ModelStore) -> None:
    """Clear away what a crash left in the models folder; a folder that cannot be changed can still be read."""
    try:
        await asyncio.to_thread(store.sweep)
    except IngleError as error:
        _log.warning("the models folder cannot be swept", code=error.code, reason=str(error))


async def _preload(pool: ModelPool, names: Sequence[str]) -> None:
    for name in names:
        try:
            await pool.load(name)
        except IngleError as error:  # the server can still serve its other models
            _log.error("preload failed", model=name, code=error.code, reason=str(error))

"""The models of all providers: what is configured is there, and takes no memory."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from application.circuit_breaker import Circuit
from application.joined_repository import REMOTE_DEVICE
from application.ports import Clock, ProviderState
from domain.errors import IngleError, ModelNotFound, ProviderUnavailable
from domain.model import Model, ModelSpec, Task
from domain.repositories import LoadedModel
from infrastructure.providers.connection import Connection
from infrastructure.providers.embedding_model import ProvidedEmbeddingModel
from infrastructure.providers.entry import ProvidedModel
from infrastructure.providers.speech_model import ProvidedSpeechModel
from infrastructure.providers.text_model import ProvidedTextModel
from infrastructure.providers.work import DeadlinePassed

STATE_SECONDS = 10.0
_CHECK_SECONDS = 2.0


@dataclass(slots=True)
class _Checked:
    """The last look at a provider; `task` is the one that takes the next."""

    state: ProviderState | None = None
    at: float = 0.0
    task: "asyncio.Task[ProviderState] | None" = None


class ProvidedModels:
    """Implements `application.joined_repository.ExternalModels` and `application.ports.ProviderWatch`.

    One connection for each provider, whichever of its models is asked. A state is at most STATE_SECONDS old; callers
    who come while one is found out share it.
    """

    def __init__(self, models: Sequence[ProvidedModel], clock: Clock) -> None:
        self._models = {model.name: model for model in models}
        self._specs = tuple(model.spec for model in models)
        self._clock = clock
        self._connections = {entry.name: Connection(entry, clock) for entry in {m.provider for m in models}}
        self._checks: Mapping[str, _Checked] = {name: _Checked() for name in sorted(self._connections)}

    # -- models -------------------------------------------------------------------------------------

    def specs(self) -> Sequence[ModelSpec]:
        """Every model that is configured."""
        return self._specs

    async def load(self, spec: ModelSpec) -> LoadedModel:
        """Ready to pass requests on; whether the provider is there shows with the first of them."""
        model = self._models.get(spec.id)
        if model is None:
            raise ModelNotFound(spec.id)
        connection = self._connections[model.provider.name]
        await connection.prepare()
        info = Model(spec).loaded(
            device=REMOTE_DEVICE,
            dtype="auto",
            quantization="auto",
            context_length=spec.context_length,
            memory_bytes=0,
            load_time_ms=0,
        )
        if spec.task is Task.EMBEDDING:
            return ProvidedEmbeddingModel(model, info, connection)
        if spec.task is Task.SPEECH:
            return ProvidedSpeechModel(model, info, connection)
        return ProvidedTextModel(model, info, connection)

    async def close(self) -> None:
        """Close every connection. Work must have ended."""
        tasks = [check.task for check in self._checks.values() if check.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in self._connections.values():
            await connection.close()

    # -- how they do --------------------------------------------------------------------------------

    async def states(self) -> Sequence[ProviderState]:
        """One for each provider, by name; all are looked at side by side."""
        return await asyncio.gather(*(self._state(name, check) for name, check in self._checks.items()))

    async def _state(self, name: str, check: _Checked) -> ProviderState:
        if check.state is not None and self._clock.monotonic() - check.at < STATE_SECONDS:
            return check.state
        if check.task is None or check.task.done():
            check.task = asyncio.create_task(self._look(name), name=f"state of provider {name}")
        state = await asyncio.shield(check.task)
        check.state, check.at = state, self._clock.monotonic()
        return state

    async def _look(self, name: str) -> ProviderState:
        connection = self._connections[name]
        await connection.prepare()
        asked_at = self._clock.monotonic()
        failure: IngleError | None = None
        try:
            await connection.look(_CHECK_SECONDS)
        except IngleError as error:
            failure = error
        except DeadlinePassed:
            failure = ProviderUnavailable()
        latency = None if failure else round(1000 * (self._clock.monotonic() - asked_at))
        circuit = connection.circuit
        return ProviderState(
            name=name,
            kind=connection.entry.kind,
            configured=True,
            host=connection.entry.host,
            status=_status(failure, circuit),
            latency_ms=latency,
            checked_at=self._clock.now(),
            models=tuple(model.name for model in self._models.values() if model.provider.name == name),
            circuit=circuit.value,
            error_code=failure.code if failure else None,
        )


def _status(failure: IngleError | None, circuit: Circuit) -> str:
    """`degraded`: it is there, and does not take our calls or did not a moment ago."""
    if isinstance(failure, ProviderUnavailable):
        return "down"
    return "ok" if failure is None and circuit is Circuit.CLOSED else "degraded"

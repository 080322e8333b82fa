"""A load as /load-model tells of it: its progress, and the model at its end."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from api.services import Services
from api.streaming import Record
from api.times import rfc3339
from domain.model import LoadOptions, Model
from domain.repositories import LoadProgress


def load_body(services: Services, name: str, model: Model, *, is_new: bool) -> dict[str, Any]:
    """The body of /load-model; `name` is what was asked for."""
    resident = next((one for one in services.pool.residents() if one.spec.id == model.id), None)
    expires_at = resident.expires_at if resident else None
    return {
        "success": True,
        "status": "loaded" if is_new else "already_loaded",
        "model_id": name,
        "resolved_model": model.id,
        "name": model.name,
        "kind": model.task.value,
        "device": model.device,
        "dtype": model.dtype,
        "quantization": model.quantization,
        "is_loaded": model.is_loaded,
        "context_length": model.context_length,
        "memory_bytes": model.memory_bytes,
        "load_time_ms": model.load_time_ms,
        "expires_at": rfc3339(expires_at) if expires_at is not None else None,
        "pinned": resident.pinned if resident else False,
    }


async def load_records(
    services: Services, name: str, options: LoadOptions, *, keep_alive: float | None, pin: bool | None
) -> AsyncGenerator[Record, None]:
    """Each step of the load, then the body. Closing it ends the waiting; the load itself goes on."""
    steps: asyncio.Queue[LoadProgress | None] = asyncio.Queue()
    loading = asyncio.create_task(
        services.pool.load(name, options, keep_alive=keep_alive, pin=pin, on_progress=steps.put_nowait)
    )
    loading.add_done_callback(lambda _: steps.put_nowait(None))
    try:
        while (step := await steps.get()) is not None:
            yield {"status": "loading", "stage": step.stage, "completed": step.completed, "total": step.total}
        model, is_new = loading.result()
        yield load_body(services, name, model, is_new=is_new)
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)

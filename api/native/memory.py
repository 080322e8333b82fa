"""Memory: /memory-usage and /optimize-memory."""

from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from api.answers import json_answer, memory_figures
from api.auth import needs
from api.bodies import Body, read_parameters
from api.docs_page import describes
from api.services import MIB, Services
from api.streaming import unless_client_leaves
from api.times import rfc3339
from application.events import DeviceSwapped
from application.residents import Resident
from domain.access import Scope
from domain.memory import GpuMemory, MemoryBudget, MemoryFreed, MemoryUsage


class OptimizeParameters(Body):
    """`aggressive` unloads every idle model that is not pinned; `target_free_bytes` goes on until so much is free."""

    aggressive: bool | None = None
    target_free_bytes: int | None = Field(None, ge=0, lt=2**63)


def routes(services: Services) -> APIRouter:
    """The routes of this page."""
    router = APIRouter(tags=["memory"])

    @router.get("/memory-usage", summary="Who holds how much memory")
    @needs(Scope.INFER)
    async def memory_usage() -> Response:
        return json_answer(memory_usage_of(services))

    @router.post(
        "/optimize-memory",
        summary="Give back memory that nobody needs",
        openapi_extra=describes(OptimizeParameters, required=False, query=True),
    )
    @needs(Scope.ADMIN)
    async def optimize_memory(request: Request) -> Response:
        wish = await read_parameters(request, OptimizeParameters)
        freed = await unless_client_leaves(
            request.receive,
            services.pool.optimize(aggressive=wish.aggressive or False, target_free_bytes=wish.target_free_bytes),
        )
        return json_answer(freed_memory(freed))

    return router


def memory_usage_of(services: Services) -> dict[str, Any]:
    """The body of /memory-usage; `budget_bytes` is the CPU's, `budgets` has every device where models are."""
    usage = services.pool.repository.memory()
    residents = services.pool.residents()
    devices = dict.fromkeys(["cpu", *(f"cuda:{gpu.index}" for gpu in usage.gpus)])
    budgets = [services.pool.repository.budget(device) for device in devices]
    return {
        **memory_figures(services),
        "process": {
            "rss_bytes": usage.rss,
            "vms_bytes": usage.vms,
            "percent": round(usage.process_percent, 1),
        },
        "system": _system(usage),
        "gpu": [_gpu(gpu) for gpu in usage.gpus],
        "models": [_resident(resident) for resident in residents],
        "budget_bytes": budgets[0].limit,
        "budgets": [_budget(budget) for budget in budgets],
        "caches": {"kv_bytes": usage.kv_cache, "prefix_bytes": usage.prefix_cache},
        "last_swap": _swap(services.pool.last_swap),
    }


def _budget(budget: MemoryBudget) -> dict[str, Any]:
    return {
        "device": budget.device,
        "limit_bytes": budget.limit,
        "held_bytes": budget.held,
        "promised_bytes": budget.promised,
        "room_bytes": budget.room,
    }


def _swap(swap: DeviceSwapped | None) -> dict[str, Any] | None:
    if swap is None:
        return None
    return {
        "device": swap.device,
        "evicted": list(swap.evicted),
        "suspended": list(swap.suspended),
        "loaded": swap.loaded,
        "seconds": round(swap.seconds, 3),
        "freed_bytes": swap.bytes_freed,
    }


def _system(usage: MemoryUsage) -> dict[str, Any]:
    used = usage.total - usage.available
    return {
        "total_bytes": usage.total,
        "available_bytes": usage.available,
        "used_bytes": used,
        "percent": round(100 * used / usage.total, 1) if usage.total else 0.0,
    }


def _gpu(gpu: GpuMemory) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "name": gpu.name,
        "total_bytes": gpu.total,
        "used_bytes": gpu.used,
        "free_bytes": gpu.free,
    }


def _resident(resident: Resident) -> dict[str, Any]:
    model = resident.model
    return {
        "name": resident.spec.id,
        "kind": resident.spec.task.value,
        "state": resident.state.value,
        "bytes": model.memory_bytes if model else None,
        "expected_bytes": resident.need.total,
        "measured_bytes": resident.bytes_taken,
        "device": model.device if model else None,
        "loaded_at": rfc3339(resident.loaded_at) if model else None,
        "last_used_at": rfc3339(resident.last_used_at) if model else None,
        "expires_at": rfc3339(resident.expires_at) if resident.expires_at is not None else None,
        "in_flight": resident.in_flight,
        "pinned": resident.pinned,
        "gives_way": resident.held_back,
    }


def freed_memory(freed: MemoryFreed) -> dict[str, Any]:
    """The body of /optimize-memory."""
    return {
        "success": True,
        "message": f"Freed {_size(freed.bytes_freed)}" if freed.bytes_freed else "Nothing could be freed",
        "before": _rss_and_vram(freed.before),
        "after": _rss_and_vram(freed.after),
        "freed_bytes": freed.bytes_freed,
        "actions": list(freed.actions),
    }


def _rss_and_vram(usage: MemoryUsage) -> dict[str, int]:
    return {"rss_bytes": usage.rss, "vram_bytes": usage.vram_used}


def _size(count: int) -> str:
    return f"{round(count / MIB)} MiB" if count >= MIB else f"{count} bytes"

"""Loading and unloading as generate requests ask for it: a model and nothing to write, or `keep_alive` 0."""

from application.model_pool import ModelPool
from domain.errors import ModelBusy, UnsupportedCapability
from domain.model import Model, ModelSpec, Task


def spec_for(pool: ModelPool, name: str, task: Task) -> ModelSpec:
    """The installed model that `name` means. Raises ModelNotFound, and UnsupportedCapability for another task."""
    spec = pool.repository.find(name)
    if spec.task is not task:
        raise UnsupportedCapability(f"model '{name}' is for {spec.task}: it cannot do {task}", field="model")
    return spec


async def bring_in(pool: ModelPool, name: str, task: Task, *, keep_alive: float | None = None) -> Model:
    """Load the model, or find it loaded, and start its time to stay (seconds) anew."""
    spec_for(pool, name, task)
    model, _ = await pool.load(name, keep_alive=keep_alive)
    return model


async def let_go(pool: ModelPool, name: str, task: Task) -> None:
    """Unload the model now if it is idle, else as soon as its last request ends; no request is interrupted."""
    spec_for(pool, name, task)
    try:
        await pool.unload(name)
    except ModelBusy:
        # It is in memory, or on its way, since we asked: this only renews its time to stay, to none.
        await pool.load(name, keep_alive=0.0)

"""What a model would read, for whoever wants to see it before anything is written."""

from application.model_pool import ModelPool
from domain.model import Task
from domain.prompt import Prompt


async def render(pool: ModelPool, model_name: str, prompt: Prompt, *, keep_alive: float | None = None) -> str:
    """The text of `prompt` as the model reads it, its template filled and its control tokens spelled out."""
    async with pool.lend(model_name, Task.TEXT, keep_alive=keep_alive) as model:
        return await model.decode(await model.encode(prompt))

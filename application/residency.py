"""Loading and unloading as generate requests ask for it: a model and nothing to write, or `keep_alive` 0."""

from dataclasses import replace

from application.generate_text import GenerateText
from application.model_pool import ModelPool
from domain.errors import ContextLengthExceeded, ModelBusy, UnsupportedCapability
from domain.generation import GenerationRequest
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


async def within_context(
    generate: GenerateText, model_name: str, request: GenerationRequest, num_ctx: int
) -> GenerationRequest:
    """`request` with no more new tokens than `num_ctx` tokens of context leave beside its prompt.

    A `num_ctx` above the loaded context means the loaded context: nothing is loaded anew. Raises
    ContextLengthExceeded if the prompt alone fills it.
    """
    prompt_tokens, context_length = await generate.count_tokens(model_name, request.prompt)
    context_length = min(num_ctx, context_length)
    room = context_length - prompt_tokens
    if room <= 0:
        raise ContextLengthExceeded(prompt_tokens, context_length)
    wanted = request.sampling.max_tokens
    limit = room if wanted is None else min(wanted, room)
    return replace(request, sampling=replace(request.sampling, max_tokens=limit))

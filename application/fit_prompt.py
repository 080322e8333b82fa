"""Answers to prompts that are too long: what is oldest in them goes, where the caller allowed that."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from application.generate_text import GenerateText, GenerationStarted
from application.model_pool import ModelPool
from application.ports import TextModel
from domain.errors import ContextLengthExceeded, UnsupportedCapability
from domain.generation import WHOLE_PROMPT, GenerationRequest, TextChunk
from domain.model import Task
from domain.prompt import Chat, Prompt, Role, TokenIds, chat_of


@dataclass(frozen=True, slots=True)
class PromptCut:
    """The prompt did not fit, and its oldest part was left out: the first thing that such a stream yields."""


class FitPrompt:
    """GenerateText for callers who would rather lose the beginning of a prompt than be refused.

    Either the oldest messages of a chat are left out, each whole, but never a system message and never the last one;
    or the oldest tokens of the prompt are, except the first `num_keep` of them.
    """

    def __init__(self, pool: ModelPool, generate: GenerateText) -> None:
        self._pool = pool
        self._generate = generate

    async def stream(
        self, model_name: str, request: GenerationRequest, *, by_messages: bool, num_keep: int, keep_alive: float | None
    ) -> AsyncGenerator[PromptCut | GenerationStarted | TextChunk, None]:
        """As GenerateText.stream, with PromptCut in front where the model said that the prompt does not fit.

        `by_messages` leaves out messages of a chat, else tokens go. Raises ContextLengthExceeded if what must stay
        does not fit either.
        """
        started: GenerationStarted | None = None
        try:
            async with aclosing(self._generate.stream(model_name, request, keep_alive=keep_alive)) as events:
                async for event in events:
                    if isinstance(event, GenerationStarted):
                        # Told with the first chunk: until then the prompt may still have to be cut.
                        started = event
                        continue
                    if started is not None:
                        yield started
                        started = None
                    yield event
            return
        except ContextLengthExceeded as error:
            refusal = error
        # No await stands between the end of that lease and the next one, or a model with a keep_alive of 0 would go.
        async with self._pool.lend(model_name, Task.TEXT, keep_alive=keep_alive) as model:
            limit = int(str(refusal.details["context_length"]))
            try:
                prompt = await _shortened(model, request.prompt, limit, None if by_messages else num_keep)
            except UnsupportedCapability:
                # The model's tokens are not known here, so nothing can be counted.
                raise refusal from None
            if prompt is None:
                raise refusal
            request = replace(request, prompt=prompt)
            yield PromptCut()
            waited = 0.0 if started is None else started.load_seconds
            async with aclosing(self._generate.stream(model_name, request, keep_alive=keep_alive)) as events:
                async for event in events:
                    yield _having_waited(event, waited)


def _having_waited(event: GenerationStarted | TextChunk, seconds: float) -> GenerationStarted | TextChunk:
    """`event` with the wait for the model, which was over before the prompt was cut."""
    if isinstance(event, GenerationStarted):
        return replace(event, load_seconds=seconds)
    if event.finish is None:
        return event
    return replace(event, finish=replace(event.finish, timings=replace(event.finish.timings, load=seconds)))


async def _shortened(model: TextModel, prompt: Prompt, limit: int, num_keep: int | None) -> Prompt | None:
    """`prompt` with fewer than `limit` tokens, or None; `num_keep` None leaves out messages."""
    if num_keep is None and isinstance(prompt, Chat):
        return await _without_oldest_messages(model, prompt, limit)
    return _without_oldest_tokens(await model.encode(prompt), limit, num_keep or 0, chat_of(prompt))


async def _without_oldest_messages(model: TextModel, chat: Chat, limit: int) -> Chat | None:
    """The chat with as few messages fewer as make it shorter than `limit` tokens, or None."""
    droppable = [index for index, message in enumerate(chat.messages[:-1]) if message.role is not Role.SYSTEM]
    if not droppable or not await _fits(model, _without(chat, droppable), limit):
        return None
    # Invariant: with `low` - 1 messages fewer it does not fit; with `high` fewer it does.
    low, high = 1, len(droppable)
    while low < high:
        middle = (low + high) // 2
        if await _fits(model, _without(chat, droppable[:middle]), limit):
            high = middle
        else:
            low = middle + 1
    return _without(chat, droppable[:high])


def _without_oldest_tokens(ids: Sequence[int], limit: int, num_keep: int, chat: Chat | None) -> TokenIds | None:
    """As many tokens of the prompt as are fewer than `limit`: the first `num_keep`, and its end. Or None."""
    room = limit - 1
    if room < 1:
        return None
    kept = room - 1 if num_keep == WHOLE_PROMPT else min(num_keep, room - 1)
    return TokenIds((*ids[:kept], *ids[len(ids) - (room - kept) :]), chat)


def _without(chat: Chat, gone: Sequence[int]) -> Chat:
    left_out = set(gone)
    return replace(chat, messages=tuple(one for index, one in enumerate(chat.messages) if index not in left_out))


async def _fits(model: TextModel, prompt: Prompt, limit: int) -> bool:
    return len(await model.encode(prompt)) < limit

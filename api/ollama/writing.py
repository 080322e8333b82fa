"""POST /api/generate and /api/chat: text as records; where there is nothing to write, a model comes or goes."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.auth import needs
from api.bodies import checked, read_object
from api.docs_page import describes
from api.ollama.answering import answer, keep_alive_in, lines, named
from api.ollama.capabilities import spec_to
from api.options import Options, parse_options
from api.services import Services
from api.streaming import unless_client_leaves
from api.text_answer import TextAnswer, Truncation
from api.text_body import (
    PromptBody,
    TextBody,
    chat_of,
    generation_request,
    in_options,
    prompt_of,
    refuse_incapable,
)
from api.text_records import Shape, as_message, as_response, head
from api.turns import MessageBodies, has_images, messages_of
from application.render_prompt import render
from application.residency import bring_in, let_go
from domain.access import Scope
from domain.errors import InvalidRequest
from domain.model import ModelSpec, Task
from domain.prompt import Chat, Prompt


class GenerateBody(PromptBody):
    """A prompt to go on from."""

    model: str = ""


class ChatBody(TextBody):
    """A chat to go on from."""

    model: str = ""
    messages: MessageBodies | None = None


def routes(services: Services) -> APIRouter:
    """The routes of this page."""
    router = APIRouter(tags=["ollama"])

    @router.post("/api/generate", summary="Go on from a prompt", openapi_extra=describes(GenerateBody))
    @needs(Scope.INFER)
    async def generate(request: Request) -> Response:
        body = await checked(GenerateBody, await read_object(request))
        if body.is_empty:
            return await load_or_unload(services, request, body.model, body, as_response)
        spec = spec_to("generate", services, body.model)
        refuse_incapable(spec, body.model, body, suffix=_has_hole(body), images=bool(body.images))
        writing = Writing(services, request, body.model, body, as_response)
        return await writing.answer(spec, prompt_of(spec, body))

    @router.post("/api/chat", summary="Write the next message of a chat", openapi_extra=describes(ChatBody))
    @needs(Scope.INFER)
    async def chat(request: Request) -> Response:
        body = await checked(ChatBody, await read_object(request))
        name = named(body.model)
        if not body.messages:
            return await load_or_unload(services, request, name, body, as_message)
        spec = spec_to("chat", services, name)
        refuse_incapable(spec, name, body, images=has_images(body.messages))
        writing = Writing(services, request, name, body, as_message)
        return await writing.answer(spec, chat_of(spec, body, messages_of(body.messages)))

    return router


def _has_hole(body: PromptBody) -> bool:
    return bool(body.suffix) and not body.raw and not body.template


class Writing:
    """One request for text, and how its answer is told."""

    def __init__(self, services: Services, request: Request, name: str, body: TextBody, shape: Shape) -> None:
        self._services = services
        self._request = request
        self._name = name
        self._body = body
        self._shape = shape

    async def answer(self, spec: ModelSpec, prompt: Prompt) -> Response:
        """The response, whole or line by line."""
        request, body = self._request, self._body
        if body.debug_render_only:
            return await self._rendered(prompt)
        text = self._text_answer(spec, prompt, parse_options(body.options, spec))
        if body.stream is False:
            content = await unless_client_leaves(request.receive, text.whole())
            return answer(content, text.headers())
        return await lines(self._services, request, text.records(), text.headers)

    def _text_answer(self, spec: ModelSpec, prompt: Prompt, options: Options) -> TextAnswer:
        body = self._body
        try:
            wish = generation_request(self._request, body, prompt, options, self._services.limits, spec=spec)
        except InvalidRequest as error:
            raise in_options(error) from None
        is_chat = self._shape is as_message
        truncation = Truncation(is_chat and isinstance(prompt, Chat), options.num_keep)
        return TextAnswer(
            self._services,
            self._name,
            wish,
            self._shape,
            with_context=not is_chat,
            truncation=None if body.truncate is False else truncation,
            keep_alive=keep_alive_in(self._services, self._request, body.keep_alive),
        )

    async def _rendered(self, prompt: Prompt) -> Response:
        """What the model would read, instead of what it would write."""
        keep_alive = keep_alive_in(self._services, self._request, self._body.keep_alive)
        work = render(self._services.pool, self._name, prompt, keep_alive=keep_alive)
        text = await unless_client_leaves(self._request.receive, work)
        return answer(
            {**head(self._services, self._name), "_debug_info": {"rendered_template": text, "image_count": 0}}
        )


async def load_or_unload(services: Services, request: Request, name: str, body: TextBody, shape: Shape) -> Response:
    """A model and nothing to write: bring it in, or with `keep_alive` 0 let it go, whatever it is for."""
    keep_alive = keep_alive_in(services, request, body.keep_alive)
    parse_options(body.options)
    if keep_alive == 0:
        reason, spec = "unload", services.pool.repository.find(name)
        await unless_client_leaves(request.receive, let_go(services.pool, name, spec.task))
    else:
        reason = "load"
        spec_to("chat" if shape is as_message else "generate", services, name)
        await unless_client_leaves(request.receive, bring_in(services.pool, name, Task.TEXT, keep_alive=keep_alive))
    ended: dict[str, Any] = {**head(services, name), **shape("", "", ()), "done": True, "done_reason": reason}
    return answer(ended)

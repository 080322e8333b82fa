"""The built-in types of jobs: what their inputs mean, and how their results look."""

from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from pydantic import ConfigDict, Field

from api.bodies import Body, validate
from api.errors import InvalidFields, Problem
from api.jobs.bounds import BELOW_INTERACTIVE, beyond
from api.jobs.recordings import TranscribeHandler
from api.options import parse_options
from api.services import Services
from api.text_body import TextBody, chat_of
from api.turns import MessageBodies, messages_of
from api.uploads import UploadFolder
from application.job_handlers import JobDone, JobHandler, Tell
from application.job_profiles import ModelProfiles
from application.residency import spec_for
from application.stored_files import StoredFiles
from domain.constraint import Constraint, JsonSchema
from domain.errors import InvalidRequest
from domain.generation import MAX_STOP_STRINGS, GenerationRequest
from domain.job import Job
from domain.model import ModelSpec, Task, WeightFormat
from domain.prompt import Message, Role

_PLAIN = validate(TextBody, {})


class ChatInput(Body):
    """A chat, or a question with what stands before it. What it does not know might change the answer: refused."""

    model_config = ConfigDict(extra="forbid")

    messages: MessageBodies | None = None
    system: str | None = None
    user: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOP_STRINGS)] | None = None
    seed: int | None = None
    response_format: dict[str, Any] | None = None


class EmbedInput(Body):
    """Texts to embed."""

    model_config = ConfigDict(extra="forbid")

    input: str | Annotated[list[str], Field(min_length=1, max_length=2048)]
    dimensions: int | None = None
    truncate: bool = False
    normalize: bool = True


def job_handlers(
    services: Services, profiles: ModelProfiles, folder: UploadFolder, files: StoredFiles
) -> Mapping[str, JobHandler]:
    """A handler for each type that needs no other dialect; recordings are fetched into `folder`."""
    chat = ChatHandler(services, profiles)
    hear = TranscribeHandler(services, profiles, folder, files)
    return {
        "llm_chat": chat,
        "chat_completion": chat,
        "transcribe": hear,
        "transcribe_url": hear,
        "embed": EmbedHandler(services, profiles),
    }


class ChatHandler:
    """Answers a chat; the defaults are those of /generate."""

    def __init__(self, services: Services, profiles: ModelProfiles) -> None:
        self._services = services
        self._profiles = profiles

    async def __call__(self, job: Job, tell: Tell) -> JobDone:
        """The answer to the job's chat."""
        del tell
        name = self._profiles.model_of(job.model_profile)
        spec = spec_for(self._services.pool, name, Task.TEXT)
        request = self._request(job, spec, validate(ChatInput, job.input))
        began = self._services.clock.monotonic()
        generation = await self._services.generate.complete(name, request)
        counts = generation.finish.usage
        usage = {
            "prompt_tokens": counts.prompt_tokens,
            "completion_tokens": counts.completion_tokens,
            "total_tokens": counts.prompt_tokens + counts.completion_tokens,
        }
        result = {
            "schema_version": "ai.chat_result.v1",
            "content": generation.text,
            "model": generation.started.model.id,
            "usage": usage,
            "finish_reason": generation.finish.reason.value,
            "duration_ms": round(1000 * (self._services.clock.monotonic() - began)),
        }
        return JobDone(result, usage)

    def _request(self, job: Job, spec: ModelSpec, given: ChatInput) -> GenerationRequest:
        wishes = {name: getattr(given, name) for name in ("temperature", "top_p", "stop", "seed")}
        options = parse_options({**wishes, "num_predict": given.max_tokens}, spec)
        return GenerationRequest(
            chat_of(spec, _PLAIN, _messages(given)),
            options.sampling(ceiling=self._services.limits.new_tokens),
            beyond(job),
            job.id,
            client=f"job:{job.owner_service}",
            priority=BELOW_INTERACTIVE,
            constraint=_constraint(given.response_format),
            num_ctx=options.num_ctx,
            # Other servers cannot be asked for it.
            shift_keeping=None if spec.format is WeightFormat.REMOTE else options.num_keep,
        )


def _messages(given: ChatInput) -> tuple[Message, ...]:
    if given.messages is not None:
        if given.user is not None or given.system is not None:
            raise InvalidFields([Problem(("messages",), "give messages, or system and user, not both")])
        if not given.messages:
            raise InvalidFields([Problem(("messages",), "must not be empty")])
        return messages_of(given.messages)
    if given.user is None:
        raise InvalidFields([Problem(("user",), "give messages, or user")])
    opening = () if given.system is None else (Message(Role.SYSTEM, given.system),)
    return (*opening, Message(Role.USER, given.user))


def _constraint(wish: Mapping[str, Any] | None) -> Constraint | None:
    match wish:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return JsonSchema('{"type":"object"}')
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return JsonSchema(orjson.dumps(schema).decode())
        case _:
            raise InvalidRequest(
                "must be of type text, json_object, or json_schema with a schema", field="response_format"
            )


class EmbedHandler:
    """Turns texts into vectors."""

    def __init__(self, services: Services, profiles: ModelProfiles) -> None:
        self._services = services
        self._profiles = profiles

    async def __call__(self, job: Job, tell: Tell) -> JobDone:
        """One vector for each text."""
        del tell
        given = validate(EmbedInput, job.input)
        began = self._services.clock.monotonic()
        done = await self._services.embed.embed(
            self._profiles.model_of(job.model_profile),
            [given.input] if isinstance(given.input, str) else given.input,
            truncate=given.truncate,
            dimensions=given.dimensions,
            normalize=given.normalize,
            request_id=job.id,
        )
        if given.dimensions is not None and given.dimensions > done.dimensions:
            raise InvalidRequest(f"must be at most {done.dimensions}", field="dimensions")
        tokens = done.embeddings.total_tokens
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        result = {
            "schema_version": "ai.embedding_result.v1",
            "model": done.model.id,
            "embeddings": [vector.tolist() for vector in done.embeddings.vectors],
            "usage": usage,
            "duration_ms": round(1000 * (self._services.clock.monotonic() - began)),
        }
        return JobDone(result, usage)

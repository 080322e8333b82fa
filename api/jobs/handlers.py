"""The built-in types of jobs: what their inputs mean, and how their results look."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from math import ceil
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import ConfigDict, Field

from api.bodies import Body, validate
from api.errors import InvalidFields, Problem
from api.options import parse_options
from api.services import Services
from api.speech_fields import options_of
from api.speech_options import TranscribeOptions
from api.text_body import TextBody, chat_of
from api.transcripts import content_of, json_body, segment_body
from api.turns import MessageBodies, messages_of
from api.uploads import UploadFolder
from application.job_handlers import JobDone, JobHandler, Tell
from application.job_profiles import ModelProfiles
from application.residency import spec_for
from domain.constraint import Constraint, JsonSchema
from domain.errors import EmptyAudio, InvalidRequest, NotOffered, UnsupportedParameter
from domain.generation import MAX_STOP_STRINGS, GenerationRequest
from domain.job import Job
from domain.model import ModelSpec, Task
from domain.prompt import Message, Role

BELOW_INTERACTIVE = -5
"""Priority of every job at a model: somebody waits for the requests of HTTP."""

_PLAIN = validate(TextBody, {})
_LAST_WORDS = 60.0
_MOST_SECONDS = 86_400.0


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


class RecordingInput(TranscribeOptions):
    """Where a recording lies, and how it is to be written down."""

    url: str = ""
    file_path: str | None = None
    file_id: str | None = None


def job_handlers(services: Services, profiles: ModelProfiles, folder: UploadFolder) -> Mapping[str, JobHandler]:
    """A handler for each type that needs no other dialect; recordings are fetched into `folder`."""
    chat = ChatHandler(services, profiles)
    hear = TranscribeHandler(services, profiles, folder)
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
            _beyond(job),
            job.id,
            client=f"job:{job.owner_service}",
            priority=BELOW_INTERACTIVE,
            constraint=_constraint(given.response_format),
            num_ctx=options.num_ctx,
            shift_keeping=options.num_keep,
        )


def _beyond(job: Job) -> float:
    """A time limit that is never reached: an answer that was cut by time must not count as a result."""
    return min(_MOST_SECONDS, job.timeout_ms / 1000 + _LAST_WORDS)


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


class TranscribeHandler:
    """Writes down a recording that lies on another server."""

    def __init__(self, services: Services, profiles: ModelProfiles, folder: UploadFolder) -> None:
        self._services = services
        self._profiles = profiles
        self._folder = folder

    async def __call__(self, job: Job, tell: Tell) -> JobDone:
        """What is said in the recording."""
        given = options_of(RecordingInput, body=job.input)
        _check_source(given)
        name = self._profiles.model_of(job.model_profile)
        spec_for(self._services.pool, name, Task.SPEECH)
        wish = given.domain_request(
            beam_size=self._services.defaults.speech_beam_size,
            timeout_seconds=_beyond(job),
            client=f"job:{job.owner_service}",
            request_id=job.id,
            interactive=False,
        )
        began = self._services.clock.monotonic()
        tell({"stage": "fetching"})
        async with self._fetched(given.url) as path:
            tell({"stage": "transcribing"})
            done = await self._services.transcribe.complete(name, path, wish)
        said, model = done.transcript, done.started.model.id
        body = json_body(said, given, model, job.id)
        usage = {"type": "duration", "seconds": ceil(said.duration)}
        result = {
            "schema_version": "ai.transcription_result.v1",
            "provider": "local",
            **body,
            "segments": [segment_body(one, with_words=given.word_timestamps) for one in said.segments],
            "duration_ms": round(1000 * (self._services.clock.monotonic() - began)),
            "usage": usage,
        }
        if given.response_format not in ("json", "verbose_json"):
            content = await content_of(said, given, model, job.id)
            result["rendered"] = {"format": given.response_format, "content": content}
        return JobDone(result, usage)

    @asynccontextmanager
    async def _fetched(self, url: str) -> AsyncGenerator[Path, None]:
        async with self._folder.lent_path() as path:
            if not await self._services.fetcher.fetch(url, path, max_bytes=self._services.limits.upload_bytes):
                raise EmptyAudio("there is nothing at that address")
            yield path


def _check_source(given: RecordingInput) -> None:
    if given.stream:
        raise UnsupportedParameter("stream: a job answers in one piece", field="stream")
    if given.file_path is not None or given.file_id is not None:
        raise NotOffered("file_path and file_id: this version keeps no uploads for jobs, give a url")
    if not given.url:
        raise InvalidFields([Problem(("url",), "is missing: name the recording's address")])

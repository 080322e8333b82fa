"""Settings of who runs jobs, and of the broker that Celery workers listen to."""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from domain.new_job import NAME
from ingle.settings_marks import From
from ingle.settings_types import Names

EXECUTORS = ("embedded", "celery", "external", "none")
_BROKER = re.compile(r"(redis|rediss|amqp|amqps|memory)://\S*")
_QUEUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def _executor(value: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(name.lower() for name in value)
    if unknown := [name for name in names if name not in EXECUTORS]:
        raise ValueError(f"'{unknown[0]}' is not offered: choose of {', '.join(EXECUTORS)}")
    return names


def _broker(value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    if value is None and "celery" in info.data.get("jobs_executor", ()):
        raise ValueError("the executor celery needs a broker, such as redis://127.0.0.1:6379/0")
    if value is not None and not _BROKER.fullmatch(value.get_secret_value()):
        raise ValueError("must be redis://…, rediss://…, amqp://… or amqps://…")
    return value


def _pairs(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    return {task.strip(): queue.strip() for task, _, queue in pairs}


def _queues(value: Mapping[str, str]) -> Mapping[str, str]:
    if not all(NAME.fullmatch(task) and _QUEUE.fullmatch(queue) for task, queue in value.items()):
        raise ValueError("write it as type=queue, several separated by commas")
    return value


class ExecutorSettings(BaseSettings):
    """Who runs jobs, and the broker that Celery workers listen to."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    jobs_executor: Annotated[Names, AfterValidator(_executor)] = ("embedded",)
    """Who runs jobs, one or several: `embedded` is the server itself; `celery` wakes Celery workers; `external` or
    `none` leave them to workers over HTTP."""

    celery_broker_url: Annotated[
        SecretStr | None, From("CELERY_BROKER_URL"), AfterValidator(_broker), Field(validate_default=True)
    ] = None
    """Broker of Celery workers: `redis://127.0.0.1:6379/0` or `amqp://user:password@127.0.0.1:5672//`."""

    celery_queues: Annotated[Mapping[str, str], BeforeValidator(_pairs), AfterValidator(_queues)] = Field(
        default_factory=dict
    )
    """Queues of task types as `type=queue` pairs; of the others, recordings go to `speech`, the rest to `llm`."""

"""Settings of who runs jobs, how large they may be, how long they are kept, and whom they are told to."""

import base64
import binascii
import platform
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from domain.new_job import NAME
from ingle.settings_executor import ExecutorSettings
from ingle.settings_marks import Duration, From, Shown
from ingle.settings_types import DAY, Seconds, seconds

_SECRET = "whsec_"  # noqa: S105
ANYBODY = "*"


def _worker_id(value: str) -> str:
    if not NAME.fullmatch(value) or len(value) > 100:
        raise ValueError("must be letters, digits and _.:/@-, at most 100")
    return value


def webhook_keys(text: str) -> dict[str, tuple[bytes, ...]]:
    """Keys by owner, of `owner=new|old,…` or of a single secret for everybody. Raises ValueError."""
    table: dict[str, tuple[bytes, ...]] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        # Base64 ends in equals signs, so only the first one of a named part parts the two.
        owner, secrets = (ANYBODY, part) if part.startswith(_SECRET) else part.partition("=")[::2]
        table[owner.strip()] = tuple(_key(one.strip()) for one in secrets.split("|"))
    return table


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(_SECRET) or not key:
        raise ValueError("each secret must be whsec_ and base64")
    return key


def _readable(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        webhook_keys(value.get_secret_value())
    return value


def _host() -> str:
    name = "".join(c if (c.isalnum() and c.isascii()) or c in "_.-" else "-" for c in platform.node())[:64]
    return name if NAME.fullmatch(name) else "worker"


Retention = Annotated[float, Duration(), BeforeValidator(seconds), Field(ge=DAY, le=3650 * DAY)]


class WorkerSettings(ExecutorSettings):
    """Who runs jobs, how large they may be, how long they are kept, and whom they are told to."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    worker_id: Annotated[str, From("WORKER_ID"), AfterValidator(_worker_id), Shown("the name of the host")] = Field(
        default_factory=_host
    )
    """Name of the worker of this process; eight hex digits are added, so that two processes are two workers."""

    worker_poll_interval: Annotated[Seconds, From("WORKER_POLL_INTERVAL")] = 2.0
    """How often a worker looks for jobs that nobody told it of."""

    worker_claim_limit: Annotated[int, From("WORKER_CLAIM_LIMIT"), Field(ge=1, le=100)] = 4
    """Jobs that the worker of a process runs at a time, and that a claim takes that names no limit."""

    jobs_lease_min: Annotated[Seconds, Field(ge=1, le=3600)] = 10.0
    """The shortest lease that a claim may ask for."""

    jobs_reap_interval: Seconds = 5.0
    """How often jobs of workers that died are looked for."""

    jobs_require_lease_token: bool = False
    """Whether reports without a lease token are refused; otherwise the first attempt of a job needs none."""

    jobs_max_input_bytes: Annotated[int, Field(ge=1024, le=1 << 28)] = 1 << 20
    """Largest input of a job in bytes."""

    jobs_max_result_bytes: Annotated[int, Field(ge=1024, le=1 << 28)] = 8 << 20
    """Largest result of a job in bytes."""

    jobs_max_batch: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    """Most jobs of one batch."""

    jobs_max_batch_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 32 << 20
    """Largest body of a batch in bytes."""

    jobs_keep_completed: Retention = 7 * DAY
    """How long completed jobs are kept."""

    jobs_keep_failed: Retention = 30 * DAY
    """How long failed jobs are kept."""

    jobs_keep_cancelled: Retention = 7 * DAY
    """How long cancelled jobs are kept."""

    jobs_payload_ttl: Retention | None = None
    """How long input and result of jobs that are over are kept, where that is shorter than the jobs themselves."""

    webhook_secret: Annotated[SecretStr | None, From("WEBHOOK_SECRET"), AfterValidator(_readable)] = None
    """Secrets that webhooks are signed with: one `whsec_…`, or `owner=new|old` pairs with `*` for all others."""

    lame_duck: Annotated[float, Duration(), BeforeValidator(seconds), Field(ge=0, le=DAY)] = 2.0
    """How long a server that is told to stop still hands out jobs, so that whoever routes to it can look away."""

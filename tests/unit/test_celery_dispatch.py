"""What the settings make of Celery: who runs jobs, which queue takes what, and what is said where one is missing."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from ingle.bootstrap import build
from ingle.celery_dispatch import queue_options
from ingle.job_application import job_application
from ingle.settings import Settings
from ingle.settings_sources import BadSettings, read_settings

SECRET = "zebra"
BROKER = f"redis://:{SECRET}@127.0.0.1:1/0"


def read(environ: Mapping[str, str], where: Path) -> Settings:
    return read_settings(environ, directory=where).settings


def test_recordings_have_a_queue_of_their_own_and_the_operator_may_say_otherwise(tmp_path: Path) -> None:
    usual = queue_options(read({"CELERY_BROKER_URL": BROKER}, tmp_path))
    assert {task: queue for task, queue in usual.queues.items() if queue != "llm"} == {
        "transcribe": "speech",
        "transcribe_url": "speech",
    }
    assert usual.concurrency == 4
    given = {"INGLE_CELERY_QUEUES": "embed=vectors, transcribe=llm", "CELERY_BROKER_URL": BROKER}
    queues = queue_options(read(given, tmp_path)).queues
    assert (queues["embed"], queues["transcribe"], queues["llm_chat"]) == ("vectors", "llm", "llm")


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"INGLE_JOBS_EXECUTOR": "embedded,celery"}, "the executor celery needs a broker, such as redis://"),
        ({"INGLE_JOBS_EXECUTOR": "celeri"}, "'celeri' is not offered: choose of embedded, celery, external, none"),
        ({"CELERY_BROKER_URL": f"sqs://:{SECRET}@host"}, "must be redis://"),
        ({"CELERY_QUEUES": "x", "INGLE_CELERY_QUEUES": "embed"}, "write it as type=queue"),
        ({"INGLE_CELERY_QUEUES": "embed=a queue"}, "write it as type=queue"),
    ],
)
def test_what_cannot_be_used_is_told_and_no_password_with_it(
    environ: Mapping[str, str], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(BadSettings) as refusal:
        read(environ, tmp_path)
    assert reason in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_a_worker_without_a_broker_is_told_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="celery_broker_url: a Celery worker needs a broker"):
        queue_options(read({}, tmp_path))


@pytest.mark.parametrize("program", ["import ingle.celery_app", "from ingle.cli import main; main(['serve'])"])
def test_without_celery_the_extra_is_named(program: str, tmp_path: Path) -> None:
    environ = {"INGLE_JOBS_EXECUTOR": "celery", "CELERY_BROKER_URL": BROKER, "INGLE_HTTP_PORT": "0"}
    code = f"import sys; sys.modules['celery'] = None; {program}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environ, "INGLE_DATA_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert 'Celery is not installed: pip install "ingle[celery]"' in done.stderr
    assert SECRET not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("options", "models", "reason"),
    [
        (["--pool=solo"], "", "--pool must be threads"),
        ([], "[[provider]]\nname = 1", "the worker cannot start: provider '1'"),
    ],
)
def test_a_worker_that_could_run_nothing_does_not_start(
    options: list[str], models: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "models.toml").write_text(models)
    environ = {"CELERY_BROKER_URL": "memory://", "INGLE_DATA_DIR": str(tmp_path), "INGLE_MODELS_FILE": "models.toml"}
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "ingle.celery_app", "worker", *options],
        env={**environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == os.EX_CONFIG
    assert reason in done.stdout


async def test_a_broker_is_told_of_every_type_that_a_worker_runs_and_of_no_other(tmp_path: Path) -> None:
    settings = read(
        {"INGLE_DATA_DIR": str(tmp_path), "INGLE_JOBS_EXECUTOR": "embedded,celery", "CELERY_BROKER_URL": BROKER},
        tmp_path,
    )
    application = build(settings)
    jobs = job_application(settings, application.services)
    try:
        assert jobs.worker is not None
        assert set(jobs.worker.task_types) == set(queue_options(settings).queues)
        assert jobs.services.broker() == "down"
    finally:
        await application.close()
        await jobs.close()

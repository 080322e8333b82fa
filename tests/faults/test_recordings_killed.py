"""A worker that is killed while it writes down an upload: the next one hears the same upload from the start."""

import io
import signal
import wave
from pathlib import Path

import pytest

from tests.faults import test_jobs_killed
from tests.faults.test_jobs_killed import QUICK, client_of, until, working
from tests.faults.test_serve import serving
from tests.needs import default_settings

SPEECH = "whisper:base"
CLIP = Path(__file__).parents[1] / "data" / "audio" / "jfk.wav"
# So often that there are several windows, which are heard one by one: the worker is killed long before the end.
TIMES = 6
ONE_BY_ONE = {"INGLE_SPEECH_BATCH_SIZE": "1"}

database = test_jobs_killed.database


def recording() -> bytes:
    """The same sentence again and again, 11 seconds each."""
    out = io.BytesIO()
    with wave.open(str(CLIP), "rb") as clip, wave.open(out, "wb") as whole:
        whole.setparams(clip.getparams())
        frames = clip.readframes(clip.getnframes())
        for _ in range(TIMES):
            whole.writeframes(frames)
    return out.getvalue()


@pytest.mark.weights(SPEECH)
@pytest.mark.timeout(180)
def test_an_upload_of_a_killed_worker_is_heard_by_the_next_and_goes(tmp_path: Path, database: str) -> None:
    shared = {"INGLE_DATABASE_URL": database, "INGLE_MODELS_DIR": str(default_settings().models_dir)}
    # Of the same name, so that the second need not wait for the lease of the first.
    named = {**shared, **ONE_BY_ONE, "INGLE_WORKER_ID": "ear"}
    with (
        serving(tmp_path, forked=True, INGLE_JOBS_EXECUTOR="none", **QUICK, **shared) as server,
        client_of(server) as client,
    ):
        uploaded = client.post("/file/upload", files={"file": recording()}, data={"purpose": "transcribe"}).json()
        body = {"owner_service": "calls", "task_type": "transcribe", "input": {"file_path": uploaded["file_path"]}}
        with working(tmp_path, **named) as first:
            job_id = client.post("/api/v1/jobs", json=body).json()["id"]

            def in_the_middle() -> bool:
                progress = client.get(f"/api/v1/jobs/{job_id}").json()["progress"]
                return progress is not None and 0 < progress["current"] < 11 * TIMES

            until(in_the_middle)
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
        assert client.get(f"/task/{job_id}").json()["status"] == "STARTED"
        with working(tmp_path, **named):

            def over() -> bool:
                return client.get(f"/task/{job_id}").json()["status"] not in ("STARTED", "PENDING", "RETRY")

            until(over)
        job = client.get(f"/api/v1/jobs/{job_id}?include=attempts").json()
        assert (job["status"], job["attempt"], job["failure_count"]) == ("completed", 2, 1)
        assert [attempt["error_code"] for attempt in job["attempts"]] == ["stale_worker", None]
        assert job["result"]["text"].lower().count("what you can do for your country") == TIMES
        assert job["result"]["duration"] == pytest.approx(11 * TIMES, abs=0.1)
        until(lambda: not list((tmp_path / "files").iterdir()))

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
CLIPS = sorted((Path(__file__).parents[1] / "data" / "audio").glob("*.wav"))
# So often that there are many windows, which are heard one by one: the worker is killed long before the end. Whole
# readings, not one sentence again and again: a model loops over those, and decodes them anew at random.
TIMES = 3
ONE_BY_ONE = {"INGLE_SPEECH_BATCH_SIZE": "1", "INGLE_SPEECH_WINDOW_SECONDS": "9"}

database = test_jobs_killed.database


def recording() -> tuple[bytes, float]:
    """All clips, one after the other, again and again; and how many seconds that takes."""
    out = io.BytesIO()
    with wave.open(out, "wb") as whole:
        for path in CLIPS * TIMES:
            with wave.open(str(path), "rb") as clip:
                if not whole.getnframes():
                    whole.setparams(clip.getparams())
                whole.writeframes(clip.readframes(clip.getnframes()))
        seconds = whole.getnframes() / whole.getframerate()
    return out.getvalue(), seconds


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
        sound, seconds = recording()
        uploaded = client.post("/file/upload", files={"file": sound}, data={"purpose": "transcribe"}).json()
        body = {"owner_service": "calls", "task_type": "transcribe", "input": {"file_path": uploaded["file_path"]}}
        with working(tmp_path, **named) as first:
            job_id = client.post("/api/v1/jobs", json=body).json()["id"]

            def in_the_middle() -> bool:
                progress = client.get(f"/api/v1/jobs/{job_id}").json()["progress"]
                return progress is not None and 0 < progress["current"] < seconds

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
        heard = job["result"]["text"].lower()
        for words in ("can do for your country", "disposed young man", "cold", "amiable woman", "amiable himself"):
            assert heard.count(words) == TIMES, heard
        assert job["result"]["duration"] == pytest.approx(seconds, abs=0.1)
        until(lambda: not list((tmp_path / "files").iterdir()))

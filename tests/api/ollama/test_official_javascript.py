"""The official `ollama` client for JavaScript against a real `ingle serve`: one program, looked at from here."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests import needs
from tests.api.real_server import EMBEDDING, MODEL

pytestmark = [pytest.mark.node, pytest.mark.weights(MODEL, EMBEDDING)]


@pytest.fixture(scope="module")
def seen(url: str) -> dict[str, Any]:
    """What the program saw."""
    node = shutil.which("node")
    assert node is not None
    program = Path(__file__).with_name("official_client.mjs")
    command = [node, str(program), str(needs.ollama_js_dir()), url, MODEL, EMBEDDING]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    seen = orjson.loads(done.stdout)
    assert isinstance(seen, dict)
    return seen


def test_a_greedy_stream_joins_to_the_answer_in_one_piece(seen: dict[str, Any]) -> None:
    assert "hello" in seen["whole"].lower()
    assert "".join(seen["pieces"]) == seen["whole"]
    assert (seen["last"]["done"], seen["last"]["done_reason"]) == (True, "stop")


def test_raw_text_schemas_and_vectors_come_as_the_client_expects_them(seen: dict[str, Any]) -> None:
    assert "3" in seen["generated"]
    assert set(seen["formed"]) == {"ok"}
    assert seen["vectors"] == [384, 384]


def test_models_are_listed_shown_and_seen_in_memory(seen: dict[str, Any]) -> None:
    assert MODEL in seen["tags"]
    assert seen["running"] and all(seen["running"])
    assert seen["info"] == "object"


def test_models_are_pulled_made_copied_and_deleted(seen: dict[str, Any]) -> None:
    assert seen["pulled"][-1] == seen["created"][-1] == "success"
    assert {seen["copied"], *seen["deleted"]} == {"success"}


def test_errors_are_the_clients_own(seen: dict[str, Any]) -> None:
    assert seen["unknown"] == {"text": "model 'nobody' not found", "status": 404}
    assert seen["wrongOption"] == {"text": 'option "top_k" must be of type integer', "status": 400}


def test_an_abort_frees_the_place(seen: dict[str, Any]) -> None:
    assert "abort" in seen["aborted"]["text"].lower()
    assert seen["inFlight"] == 0

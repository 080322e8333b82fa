"""What is done ahead of loads must never keep the server from starting."""

import json
from pathlib import Path

import pytest

from models.catalog import Catalog
from models.repository import LoadPolicy, OptimizedModelRepository
from models.speech.decoder import AudioDecoder
from models.store import ModelStore


def test_a_damaged_vocabulary_is_said_and_the_server_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ear = tmp_path / "ear"
    ear.mkdir()
    (ear / "model.bin").write_bytes(b"weights" * 100)
    (ear / "config.json").write_text(json.dumps({"alignment_heads": [[3, 1]], "lang_ids": [50259]}))
    (ear / "tokenizer.json").write_text('{"model": ')
    (ear / "vocabulary.json").write_text("[]")
    store = ModelStore(tmp_path, Catalog.load(), {})
    assert store.find("ear").spec.id == "ear"
    repository = OptimizedModelRepository(store, AudioDecoder(processes=1), LoadPolicy(cpu_threads=1))
    repository.prepare(["nobody", "ear"])
    repository.close()
    assert "ear cannot be prepared" in caplog.text
    assert "nobody" not in caplog.text

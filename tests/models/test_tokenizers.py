"""Tokenizers of models on disk, without their weights."""

import shutil
from pathlib import Path

import pytest

from domain.errors import InvalidRequest, ModelLoadFailed, UnsupportedCapability
from domain.model import ModelSpec, Task, WeightFormat
from domain.prompt import Chat, Message, RawText, Role, TokenIds
from models.catalog import Catalog
from models.store import ModelStore
from models.tokenizers import StoredTokenizers
from tests.models.tiny import byte_tokenizer, save_tiny
from tests.models.tiny_encoder import save_encoder


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path, Catalog(()), {})


@pytest.fixture
def tokenizers(store: ModelStore) -> StoredTokenizers:
    return StoredTokenizers(store)


def spec_of(store: ModelStore, name: str) -> ModelSpec:
    return store.find(name).spec


async def test_a_text_goes_to_tokens_and_back(tmp_path: Path, store: ModelStore, tokenizers: StoredTokenizers) -> None:
    save_tiny(tmp_path / "tiny")
    tokenizer = await tokenizers.open(spec_of(store, "tiny"))
    for text in ("hello", "é🦜 " * 2000, "<|im_end|>"):
        ids = await tokenizer.encode(RawText(text))
        assert await tokenizer.decode(ids) == text
        assert b"".join(await tokenizer.pieces(ids)).decode() == text
    assert await tokenizer.encode(RawText("hello"), add_special_tokens=False) == await tokenizer.encode(
        RawText("hello")
    )
    assert await tokenizer.encode(TokenIds((5, 6))) == (5, 6)
    chat = Chat((Message(Role.USER, "hi <|im_end|>"),))
    shown = await tokenizer.decode(await tokenizer.encode(chat))
    assert "hi <|im_end|>" in shown
    end = byte_tokenizer().token_to_id("<|im_end|>")
    assert (await tokenizer.encode(chat)).count(end) == 1


async def test_the_second_opening_reads_nothing(
    tmp_path: Path, store: ModelStore, tokenizers: StoredTokenizers
) -> None:
    directory = save_tiny(tmp_path / "tiny")
    spec = spec_of(store, "tiny")
    first = await tokenizers.open(spec)
    shutil.rmtree(directory)
    assert await tokenizers.open(spec) is first


async def test_an_embedding_model_has_its_control_tokens_unless_they_are_not_wanted(
    tmp_path: Path, store: ModelStore, tokenizers: StoredTokenizers
) -> None:
    save_encoder(tmp_path / "encoder")
    tokenizer = await tokenizers.open(spec_of(store, "encoder"))
    assert await tokenizer.encode(RawText("w1 w2")) == (2, 5, 6, 3)
    assert await tokenizer.encode(RawText("w1 w2"), add_special_tokens=False) == (5, 6)
    assert await tokenizer.encode(TokenIds((5,))) == (5,)
    assert await tokenizer.pieces((2, 5)) == (b"[CLS]", b"w1")
    long = await tokenizer.encode(RawText("w1 " * 500))
    assert len(long) == 502
    with pytest.raises(UnsupportedCapability):
        await tokenizer.encode(Chat((Message(Role.USER, "hi"),)))


async def test_ids_outside_the_vocabulary_are_refused(
    tmp_path: Path, store: ModelStore, tokenizers: StoredTokenizers
) -> None:
    save_tiny(tmp_path / "tiny")
    tokenizer = await tokenizers.open(spec_of(store, "tiny"))
    for ids in ((-1,), (10**6,)):
        with pytest.raises(InvalidRequest) as caught:
            await tokenizer.decode(ids)
        assert caught.value.field == "tokens"
        with pytest.raises(InvalidRequest):
            await tokenizer.pieces(ids)


async def test_what_has_no_tokenizer_says_so(tmp_path: Path, store: ModelStore, tokenizers: StoredTokenizers) -> None:
    speech = ModelSpec("ear:base", "Ear", Task.SPEECH, WeightFormat.CTRANSLATE2)
    elsewhere = ModelSpec("big:72b", "Big", Task.TEXT, WeightFormat.REMOTE)
    for spec in (speech, elsewhere):
        with pytest.raises(UnsupportedCapability):
            await tokenizers.open(spec)
    directory = save_tiny(tmp_path / "broken")
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(ModelLoadFailed, match="broken"):
        await tokenizers.open(spec_of(store, "broken"))

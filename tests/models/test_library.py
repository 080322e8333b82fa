"""The library: pulls as streams, and what the files of a model say."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from domain.errors import DownloadFailed, InvalidRequest, ModelLoadFailed, ModelNotFound
from domain.library import NewModel, PullStage
from domain.preset import Preset
from models.catalog import Catalog
from models.library import StoredLibrary
from models.store import ModelStore
from tests.fakes.registry import Fault, Hold, Registry
from tests.models.pulling import BOXED, FIRST_WHEEL, GGUF, PAIRED, open_store
from tests.models.weight_files import QWEN, Content, Field, gguf, write

FIELDS: dict[str, Field] = {
    "general.architecture": "qwen2",
    "general.basename": "Qwen2.5-Coder",
    "general.license": "apache-2.0",
    "general.file_type": 15,
    "qwen2.context_length": 32768,
    "qwen2.embedding_length": 896,
    "qwen2.block_count": 24,
    "qwen2.attention.head_count": 14,
    "qwen2.attention.head_count_kv": 2,
    "tokenizer.chat_template": "{{ tools }}",
    "tokenizer.ggml.tokens": ["!", "<|end|>", "hello"],
}


@pytest.fixture
def store(tmp_path: Path, registry: Registry, catalog: Catalog) -> ModelStore:
    return open_store(tmp_path, registry, catalog)


@pytest.fixture
def library(store: ModelStore) -> Iterator[StoredLibrary]:
    opened = StoredLibrary(store)
    yield opened
    opened.close()


async def test_a_pull_is_a_stream_of_steps_that_ends_when_the_model_is_here(
    library: StoredLibrary, store: ModelStore
) -> None:
    stages = [step.stage async for step in library.pull(BOXED)]
    assert list(dict.fromkeys(stages)) == list(PullStage)
    assert store.find(BOXED).files[0].path.read_bytes() == GGUF
    assert [step.stage async for step in library.pull(BOXED)] == [PullStage.DONE]


async def test_a_pull_that_cannot_begin_fails_before_its_first_step(library: StoredLibrary) -> None:
    with pytest.raises(ModelNotFound):
        await anext(library.pull("nosuch"))
    with pytest.raises(InvalidRequest):
        await anext(library.pull("../x"))


async def test_a_pull_that_fails_says_so_in_the_stream(library: StoredLibrary, registry: Registry) -> None:
    registry.fail("/simple/pair/", *[Fault(status=404)] * 9)
    with pytest.raises(DownloadFailed):
        _ = [step async for step in library.pull(PAIRED)]


async def test_closing_the_stream_leaves_the_pull_to_others_and_the_last_ends_it(
    library: StoredLibrary, registry: Registry
) -> None:
    hold = Hold()
    registry.fail(FIRST_WHEEL, Fault(after=100_000, hold=hold))
    async with aclosing(library.pull(BOXED)) as first, aclosing(library.pull(BOXED)) as second:
        await anext(first)
        await anext(second)
        await asyncio.to_thread(hold.reached.wait, 10)
        await first.aclose()
        hold.release()
        assert [step.stage async for step in second][-1] is PullStage.DONE
    assert len(registry.requests(FIRST_WHEEL)) == 1


async def test_an_abandoned_pull_ends_and_is_continued_later(library: StoredLibrary, registry: Registry) -> None:
    hold = Hold()
    registry.fail(FIRST_WHEEL, Fault(after=100_000, hold=hold))
    async with aclosing(library.pull(BOXED)) as steps:
        await anext(steps)
        await asyncio.to_thread(hold.reached.wait, 10)
    assert [step.stage async for step in library.pull(BOXED)][-1] is PullStage.DONE
    hold.release()
    assert registry.requests(FIRST_WHEEL)[-1].range is not None
    assert not any(thread.name.startswith("pull boxed") for thread in threading.enumerate())


async def test_copies_and_made_models_come_and_go(library: StoredLibrary, store: ModelStore) -> None:
    _ = [step async for step in library.pull(BOXED)]
    assert (await library.copy(BOXED, "twin")).id == "twin"
    made = await library.create(NewModel("pirate", "twin", Preset(system="Arr.")))
    assert made == store.find("pirate").spec
    assert (await library.delete("twin")).id == "twin"
    assert {model.spec.id for model in store.installed()} == {BOXED, "pirate"}


async def test_a_gguf_file_tells_its_details(tmp_path: Path, library: StoredLibrary) -> None:
    write(tmp_path, {"coder.gguf": gguf(FIELDS, {"a": (8, 4), "b": (2,)})})
    details = await library.details("coder")
    assert (details.architecture, details.basename, details.quantization) == ("qwen2", "Qwen2.5-Coder", "Q4_K_M")
    assert (details.context_length, details.embedding_length, details.block_count) == (32768, 896, 24)
    assert (details.head_count, details.head_count_kv, details.vocabulary_size) == (14, 2, 3)
    assert (details.parameters, details.template, details.licence) == (34, "{{ tools }}", "apache-2.0")
    assert details.vocabulary == ()
    assert (await library.details("coder", vocabulary=True)).vocabulary == ("!", "<|end|>", "hello")


async def test_a_directory_of_safetensors_tells_its_details(tmp_path: Path, library: StoredLibrary) -> None:
    config: dict[str, object] = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "max_position_embeddings": 32768,
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "vocab_size": 3,
    }
    tokenizer: dict[str, object] = {
        "model": {"vocab": {"b": 1, "a": 0}},
        "added_tokens": [{"id": 2, "content": "<|end|>"}],
    }
    extra: dict[str, Content] = {
        "config.json": config,
        "tokenizer.json": tokenizer,
        "LICENSE.txt": "Do good.",
        "chat_template.jinja": "{{ m }}",
    }
    write(tmp_path / "qwen", {**QWEN, **extra})
    details = await library.details("qwen", vocabulary=True)
    assert (details.architecture, details.quantization, details.parameters) == ("qwen2", "F32", 10)
    assert (details.embedding_length, details.block_count, details.vocabulary_size) == (896, 24, 3)
    assert (details.licence, details.template) == ("Do good.", "{{ m }}")
    assert details.vocabulary == ("a", "b", "<|end|>")


async def test_details_follow_the_files_and_hostile_ones_are_refused(tmp_path: Path, library: StoredLibrary) -> None:
    write(tmp_path, {"coder.gguf": gguf(FIELDS, {"a": (8, 4)})})
    assert (await library.details("coder")).parameters == 32
    write(tmp_path, {"coder.gguf": gguf({**FIELDS, "general.file_type": 7}, {"a": (8, 8)})})
    assert (await library.details("coder")).quantization == "Q8_0"
    write(tmp_path / "qwen", {**QWEN, "tokenizer.json": {"model": {"vocab": {"a": "x"}}}})
    with pytest.raises(ModelLoadFailed, match=r"tokenizer.json is not a tokenizer"):
        await library.details("qwen", vocabulary=True)
    with pytest.raises(ModelNotFound):
        await library.details("nosuch")


async def test_a_made_models_details_show_its_own_template_and_licence(
    tmp_path: Path, library: StoredLibrary, registry: Registry
) -> None:
    registry.add_repository("org/boxed", {"boxed.gguf": gguf(FIELDS, {"a": (8, 4)})})
    _ = [step async for step in library.pull("hf.co/org/boxed")]
    await library.create(NewModel("pirate", "hf.co/org/boxed", Preset(template="{{ arr }}"), licence="be kind"))
    details = await library.details("pirate")
    assert (details.template, details.licence, details.spec.id) == ("{{ arr }}", "be kind", "pirate")
    assert (await library.details("hf.co/org/boxed")).template == "{{ tools }}"

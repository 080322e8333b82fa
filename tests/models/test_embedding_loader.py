"""What becomes an embedding engine, what its files may say, and what is refused by name."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from domain.errors import DeviceNotAvailable, IngleError, InvalidRequest, ModelLoadFailed
from domain.model import LoadOptions, WeightFormat
from models.embedding.engine import EmbeddingEngine
from models.embedding.placement import place_embedding
from models.inference_thread import InferenceThread
from tests.models.tiny_encoder import DIMENSIONS, MAX_LENGTH, SPEC, load_encoder, save_encoder, words, write


@pytest.fixture
def thread() -> Iterator[InferenceThread]:
    thread = InferenceThread("test")
    yield thread
    thread.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return save_encoder(tmp_path / "model")


async def vector_of(engine: EmbeddingEngine, text: str) -> list[float]:
    (vector,) = (await engine.embed([text])).vectors
    return list(vector)


def refusal(directory: Path, thread: InferenceThread) -> str:
    """Why it is not loaded; the reason must not tell where the files lie."""
    with pytest.raises(ModelLoadFailed) as refused:
        load_encoder(directory, thread)
    assert str(directory) not in str(refused.value)
    return str(refused.value)


def change_config(directory: Path, **changes: object) -> None:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    write(directory, "config.json", config | changes)


# -- what is loaded -------------------------------------------------------------------------------------


def test_the_entity_says_what_was_loaded(directory: Path, thread: InferenceThread) -> None:
    engine = load_encoder(directory, thread)
    info = engine.info
    assert (info.is_loaded, info.device, info.dtype, info.quantization) == (True, "cpu", "float32", "none")
    assert (info.context_length, engine.dimensions) == (MAX_LENGTH, DIMENSIONS)
    parameters = sum(tensor.numel() for tensor in load_file(directory / "model.safetensors").values())
    assert info.memory_bytes >= 4 * parameters


async def test_weights_are_in_memory_and_not_only_in_their_file(directory: Path, thread: InferenceThread) -> None:
    engine = load_encoder(directory, thread)
    file = directory / "model.safetensors"
    with file.open("r+b") as weights:
        weights.write(bytes(file.stat().st_size))
    found = await vector_of(engine, words(9))
    assert found == await vector_of(load_encoder(save_encoder(directory.parent / "again"), thread), words(9))


@pytest.mark.parametrize(("num_ctx", "context"), [(0, MAX_LENGTH), (16, 16), (60, 60), (64, 64), (1000, 64)])
def test_the_context_is_what_was_asked_for_as_far_as_positions_reach(
    directory: Path, thread: InferenceThread, num_ctx: int, context: int
) -> None:
    engine = load_encoder(directory, thread, options=LoadOptions(device="cpu", num_ctx=num_ctx))
    assert engine.info.context_length == context


def test_a_context_without_room_for_a_word_is_refused(directory: Path, thread: InferenceThread) -> None:
    with pytest.raises(InvalidRequest, match="above 2") as refused:
        load_encoder(directory, thread, options=LoadOptions(device="cpu", num_ctx=2))
    assert refused.value.field == "num_ctx"


async def test_a_family_that_counts_positions_from_behind_the_padding_reads_a_full_context(
    tmp_path: Path, thread: InferenceThread
) -> None:
    directory = save_encoder(tmp_path / "roberta", family="roberta", settings={"do_lower_case": False})
    engine = load_encoder(directory, thread)
    assert engine.info.context_length == 63
    embeddings = await engine.embed([words(200), "w1"])
    assert embeddings.token_counts == (63, 3)


async def test_bfloat16_is_obeyed_and_near(directory: Path, thread: InferenceThread) -> None:
    exact, coarse = (
        load_encoder(directory, thread, options=LoadOptions(device="cpu", dtype=dtype))
        for dtype in ("float32", "bfloat16")
    )
    assert coarse.info.dtype == "bfloat16"
    one, other = await vector_of(exact, words(9)), await vector_of(coarse, words(9))
    assert one != other == pytest.approx(one, abs=0.05)


async def test_a_directory_without_files_of_sentence_transformers_is_pooled_by_the_mean(
    directory: Path, thread: InferenceThread
) -> None:
    expected = await vector_of(load_encoder(directory, thread), words(9))
    for name in ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json"):
        (directory / name).unlink()
    engine = load_encoder(directory, thread)
    assert engine.info.context_length == 64
    assert await vector_of(engine, words(9)) == expected


@pytest.mark.parametrize("pooling", [{"pooling_mode": "cls"}, {"pooling_mode": ["cls"]}])
async def test_pooling_may_be_named_in_the_newer_way(
    directory: Path, tmp_path: Path, thread: InferenceThread, pooling: dict[str, object]
) -> None:
    other = save_encoder(tmp_path / "cls", pooling={"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    expected = await vector_of(load_encoder(other, thread), words(9))
    assert await vector_of(load_encoder(directory, thread), words(9)) != expected
    write(directory, "1_Pooling/config.json", pooling)
    assert await vector_of(load_encoder(directory, thread), words(9)) == expected


async def test_a_model_that_wants_lower_case_gets_it(directory: Path, thread: InferenceThread) -> None:
    expected = await vector_of(load_encoder(directory, thread), "w1 w2")
    assert await vector_of(load_encoder(directory, thread), "W1 W2") != expected
    write(directory, "sentence_bert_config.json", {"max_seq_length": MAX_LENGTH, "do_lower_case": True})
    assert await vector_of(load_encoder(directory, thread), "W1 W2") == expected


async def test_a_default_prompt_goes_before_every_text(directory: Path, thread: InferenceThread) -> None:
    expected = await vector_of(load_encoder(directory, thread), "w7 w1")
    write(
        directory,
        "config_sentence_transformers.json",
        {"prompts": {"query": "w7 ", "other": "w8 "}, "default_prompt_name": "query"},
    )
    assert await vector_of(load_encoder(directory, thread), "w1") == expected


# -- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["auto_map", "trust_remote_code", "quantization_config", "_attn_implementation"])
def test_a_configuration_that_would_bring_code_is_refused(directory: Path, thread: InferenceThread, key: str) -> None:
    change_config(directory, **{key: {"AutoModel": "evil.Model"}})
    assert key in refusal(directory, thread)


@pytest.mark.parametrize("size", ["hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size"])
@pytest.mark.parametrize("value", [1 << 40, -1])
def test_a_size_beyond_reason_is_refused_before_it_sizes_a_tensor(
    directory: Path, thread: InferenceThread, size: str, value: int
) -> None:
    change_config(directory, **{size: value})
    refusal(directory, thread)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", [], "config.json"),
        ("modules.json", {"type": "Transformer"}, "modules.json"),
        ("modules.json", [{"type": "x.Transformer"}, {"type": "x.Pooling"}, {"type": "x.Dense"}], "Dense"),
        ("modules.json", [{"type": "x.Transformer"}, {"type": "x.Pooling", "path": "../other"}], "1_Pooling"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "max_tokens"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "mean, cls"),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "lasttoken"),
        ("sentence_bert_config.json", {"max_seq_length": "many"}, "max_seq_length"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query", "prompts": {}}, "default prompt"),
    ],
)
def test_what_the_files_ask_for_and_is_not_offered_is_refused_by_name(
    directory: Path, thread: InferenceThread, name: str, content: object, reason: str
) -> None:
    write(directory, name, content)
    assert reason in refusal(directory, thread)


@pytest.mark.parametrize("name", ["config.json", "modules.json", "1_Pooling/config.json", "tokenizer.json"])
def test_a_broken_file_is_refused(directory: Path, thread: InferenceThread, name: str) -> None:
    (directory / name).write_bytes(b"{")
    refusal(directory, thread)


def test_weights_that_are_cut_off_are_refused(directory: Path, thread: InferenceThread) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refusal(directory, thread)


def test_weights_that_lack_a_tensor_are_refused_by_its_name(directory: Path, thread: InferenceThread) -> None:
    tensors = load_file(directory / "model.safetensors")
    lost = next(name for name in sorted(tensors) if "attention.self.query.weight" in name)
    del tensors[lost]
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    assert lost in refusal(directory, thread)


def test_weights_that_give_no_numbers_are_refused(directory: Path, thread: InferenceThread) -> None:
    tensors = load_file(directory / "model.safetensors")
    damaged = next(name for name in sorted(tensors) if "attention.self.query.weight" in name)
    tensors[damaged].fill_(float("nan"))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    assert "numbers" in refusal(directory, thread)


def test_pickled_weights_are_not_opened(directory: Path, thread: InferenceThread) -> None:
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    refusal(directory, thread)


def test_an_encoder_as_gguf_is_refused(directory: Path, thread: InferenceThread) -> None:
    with pytest.raises(ModelLoadFailed, match="gguf"):
        load_encoder(directory, thread, spec=replace(SPEC, format=WeightFormat.GGUF))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (LoadOptions(device="cpu", quantization="int8"), InvalidRequest),
        (LoadOptions(device="cpu", dtype="float16"), InvalidRequest),
        (LoadOptions(device="cuda:99"), DeviceNotAvailable),
    ],
)
def test_a_wish_that_the_device_cannot_keep_is_refused(options: LoadOptions, error: type[IngleError]) -> None:
    with pytest.raises(error):
        place_embedding(options)

"""The engine on real weights: what it writes is what transformers writes."""

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from domain.prompt import Chat, Message, Role
from models.store import ModelStore
from models.text import fusion, skeleton
from models.text.gguf_source import GgufSource
from models.text.weights import LoadedWeights
from tests.models.running import Bench

MODEL = "qwen2.5-coder:0.5b"
NEW_TOKENS = 64
QUESTIONS = (
    "Write a Python function that returns the n-th Fibonacci number.",
    "Translate into French: the library opens at nine in the morning.",
    "Name three rivers of Portugal and the cities at their mouths.",
    "Почему небо голубое?",
    "Summarise in one sentence: bees dance to tell each other where flowers are. 🐝",
)


@pytest.mark.weights(MODEL)
@pytest.mark.timeout(400)
def test_greedy_text_of_the_default_model_equals_that_of_transformers(model_store: ModelStore) -> None:
    installed = model_store.find(MODEL)
    source = GgufSource(next(file.path for file in installed.files if file.name.endswith(".gguf")))
    config, tokenizer = source.config(), source.tokenizer()
    engine = skeleton.empty_model(config, torch.float32)
    weights = dict(source.tensors(engine, config))
    reference = _reference(source)
    reference.load_state_dict(weights, assign=True)
    engine.load_state_dict(weights, assign=True)
    assert fusion.fuse(engine)

    prompts = [tokenizer.encode(Chat((Message(Role.USER, question),))) for question in QUESTIONS]
    loaded = LoadedWeights(config.get_text_config(), engine, tokenizer, "fused", "", 0.0)
    bench = Bench(loaded, blocks=256, block_size=16)
    together = bench.run([bench.sequence(ids, NEW_TOKENS) for ids in prompts])
    for ids, written in zip(prompts, together, strict=True):
        # Greedy text is what the reference finds likeliest at every place, given what stands before it.
        with torch.inference_mode():
            logits = torch.nn.Module.__call__(reference, input_ids=torch.tensor([ids + written])).logits[0]
        assert written == logits.argmax(dim=-1)[len(ids) - 1 : -1].tolist()


def _reference(source: GgufSource) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(source.config(), dtype=torch.float32)
    # The angles of the rotation are no weights: they come from the configuration.
    model.base_model.rotary_emb = type(model.base_model.rotary_emb)(source.config())
    model.eval()
    return model

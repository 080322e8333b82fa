"""Families that transformers has and the engine runs: what transformers computes, or a refusal that says why."""

from pathlib import Path
from typing import Any

import pytest
import torch

from domain.errors import ModelLoadFailed
from domain.prompt import RawText
from tests.models.running import Bench, load_tiny
from tests.models.talking import ask, collect, talking
from tests.models.tiny import save_tiny, tiny_model

IDS = [(21 + 3 * place + place * place) % 500 for place in range(71)]
OWN_SHAPE: dict[str, Any] = {"head_dim": ..., "num_key_value_heads": ...}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}

EXACT: dict[str, dict[str, Any]] = {
    "gemma": {},
    "gemma2": {"sliding_window": 24},
    "phi3": {},
    "phi": OWN_SHAPE,
    "smollm3": {},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "n_inner": 96, **OWN_SHAPE},
    "gpt_neox": OWN_SHAPE,
    "gpt_bigcode": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, **OWN_SHAPE},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 24},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64, **OWN_SHAPE},
    "stablelm": {},
    "nemotron": {},
    "starcoder2": {"sliding_window": 24},
    "olmo2": {},
    "cohere": {"logit_scale": 1.0},
    "cohere2": {"logit_scale": 1.0, "sliding_window": 24},
    "granite": {},
    "glm4": {},
    "exaone4": {"sliding_window": 24},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {"num_experts": 4, "shared_expert_intermediate_size": 32, **EXPERTS},
    "qwen3_moe": {"num_experts": 4, **EXPERTS},
    "olmo3": {"sliding_window": 24},
}


@pytest.mark.parametrize("family", EXACT)
def test_logits_of_a_family_equal_those_of_transformers(family: str, tmp_path: Path) -> None:
    loaded = load_tiny(save_tiny(tmp_path / "model", family, **EXACT[family]))
    with torch.inference_mode():
        expected = torch.nn.Module.__call__(tiny_model(family, **EXACT[family]), input_ids=torch.tensor([IDS])).logits[
            0
        ]
    assert torch.allclose(Bench(loaded).logits_of(IDS), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("int8", [False, True])
async def test_a_family_that_is_not_known_here_says_so_and_runs_as_transformers_wrote_it(
    int8: bool, tmp_path: Path
) -> None:
    with talking(save_tiny(tmp_path / "model", "olmo2"), int8=int8) as engine:
        assert engine.info.kernel.startswith("plain layers: ")
        text, _ = await collect(engine.generate(ask(6, RawText("Once"))))
        together = [engine.generate(ask(6, RawText(prompt))) for prompt in ("Once", "Twice")]
        assert (await collect(together[0]))[0] == text
        await together[1].aclose()


def test_a_window_that_only_the_masks_of_a_class_know_is_kept_to(tmp_path: Path) -> None:
    changes = {**EXACT["qwen2_moe"], "sliding_window": 24, "use_sliding_window": True, "max_window_layers": 1}
    loaded = load_tiny(save_tiny(tmp_path / "model", "qwen2_moe", **changes))
    with torch.inference_mode():
        expected = torch.nn.Module.__call__(tiny_model("qwen2_moe", **changes), input_ids=torch.tensor([IDS])).logits[0]
    assert torch.allclose(Bench(loaded).logits_of(IDS), expected, atol=1e-4, rtol=1e-4)


LONG_ROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0 + place / 9 for place in range(8)],
    "long_factor": [2.0 + place for place in range(8)],
}
DYNAMIC: dict[str, Any] = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}}
LONG: dict[str, Any] = {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 80}


@pytest.mark.parametrize(
    ("family", "changes", "longest"),
    [("gpt2", EXACT["gpt2"], 512), ("phi3", LONG, 80), ("llama", DYNAMIC, 512), ("olmo2", {}, 0)],
    ids=["learned", "longrope", "dynamic", "plain"],
)
@pytest.mark.parametrize("asked", [0, 100, 1000])
def test_a_context_ends_where_positions_end_or_change_their_meaning(
    family: str, changes: dict[str, Any], longest: int, asked: int, tmp_path: Path
) -> None:
    with talking(save_tiny(tmp_path / "model", family, **changes), num_ctx=asked) as engine:
        assert engine.info.context_length == min(asked or 512, longest or 1000)


def test_scaled_rotations_give_the_logits_of_transformers(tmp_path: Path) -> None:
    loaded = load_tiny(save_tiny(tmp_path / "model", "phi3", **LONG))
    with torch.inference_mode():
        expected = torch.nn.Module.__call__(tiny_model("phi3", **LONG), input_ids=torch.tensor([IDS])).logits[0]
    assert torch.allclose(Bench(loaded).logits_of(IDS), expected, atol=1e-4, rtol=1e-4)


FIXED = "attention is written into its layers"
OTHER_MEMORY = "other means than keys and values"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bloom": ({"n_layer": 2, "n_head": 4, **OWN_SHAPE}, FIXED),
    "codegen": ({"n_embd": 64, "n_layer": 2, "n_head": 4, "n_ctx": 512, "rotary_dim": 8, **OWN_SHAPE}, FIXED),
    "falcon": (OWN_SHAPE, FIXED),
    "mamba": ({"state_size": 8, **OWN_SHAPE}, OTHER_MEMORY),
    "qwen3_next": (
        {"num_hidden_layers": 4, "num_experts": 4, "shared_expert_intermediate_size": 32, **EXPERTS},
        f"{OTHER_MEMORY}.*linear_attention",
    ),
    "llama4_text": ({"num_local_experts": 2, "attention_chunk_size": 24, "intermediate_size_mlp": 96}, OTHER_MEMORY),
    "diffllama": ({}, "something else than transformers"),
}


@pytest.mark.parametrize("family", REFUSED)
@pytest.mark.parametrize("int8", [False, True])
def test_a_family_that_would_get_other_numbers_is_refused_with_the_reason(
    family: str, int8: bool, tmp_path: Path
) -> None:
    changes, reason = REFUSED[family]
    directory = save_tiny(tmp_path / "model", family, **changes)
    with (
        pytest.raises(ModelLoadFailed, match=f"'{family}' do not run here: .*{reason}"),
        talking(directory, int8=int8),
    ):
        pass


def test_what_is_no_language_model_is_refused_by_its_family(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit", "hidden_size": 64}')
    with pytest.raises(ModelLoadFailed, match="'vit' do not run here: transformers knows no causal language model"):
        load_tiny(tmp_path)


def test_small_differences_show_where_nothing_is_rounded(tmp_path: Path) -> None:
    """Its masks depend on what is read: two layers of it are nearly right without them."""
    with (
        pytest.raises(ModelLoadFailed, match="something else than transformers"),
        talking(save_tiny(tmp_path / "model", "doge")),
    ):
        pass

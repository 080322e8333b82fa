"""Tiny random models of real families, made on the spot, with a byte-level tokenizer that knows every character."""

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SPECIAL_MARKS = ("[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
PLAIN_MARKS = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",  # noqa: RUF001
    "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>",  # noqa: RUF001
)  # fmt: skip
FAMILIES = ("qwen2", "qwen3", "llama", "mistral", "gemma2", "gemma3_text")


def tiny_config(family: str, **changes: object) -> PretrainedConfig:
    """A configuration of `family` with two layers, grouped heads and 512 ids; `changes` to `...` leave a field out."""
    settings: dict[str, object] = {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if family == "mistral":
        settings["sliding_window"] = 24
    if family == "gemma3_text":
        settings |= {"sliding_window": 24, "query_pre_attn_scalar": 16}
    if family == "gemma2":
        settings |= {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.5, "query_pre_attn_scalar": 16}
    return AutoConfig.for_model(family, **{name: it for name, it in {**settings, **changes}.items() if it is not ...})


def tiny_model(family: str, seed: int = 0, **changes: object) -> PreTrainedModel:
    """A random model in float32, as transformers would run it; biases and norms are random too."""
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(tiny_config(family, **changes), dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif "embed" not in name:
                parameter.mul_(4.0)
    model.eval()
    return model


def byte_tokenizer() -> Tokenizer:
    """One id a byte, after the special tokens; no merges, so any text has exactly one spelling."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


def tool_tokenizer() -> Tokenizer:
    """`byte_tokenizer` with the marks of thinking, calls and filling in; half of them are not called special."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL_MARKS])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in PLAIN_MARKS])
    return tokenizer


def save_tiny(
    directory: Path,
    family: str = "qwen2",
    seed: int = 0,
    *,
    talks: bool = False,
    template: str | None = None,
    **changes: object,
) -> Path:
    """A tiny model on disk, as somebody would put it into the models folder.

    One that `talks` writes printable ASCII when it is greedy: every other token has a logit of 0. With a `template` of
    its own it also has the marks of `tool_tokenizer`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model = tiny_model(family, seed, **changes)
    if talks:
        vocabulary = byte_tokenizer().get_vocab()
        printable = [number for token, number in vocabulary.items() if len(token) == 1 and " " < token < "\x7f"]
        silent = torch.ones(model.config.vocab_size, dtype=torch.bool)
        silent[printable] = False
        with torch.no_grad():
            model.lm_head.weight[silent] = 0.0
    model.save_pretrained(directory)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer() if template is None else tool_tokenizer(),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.chat_template = template or CHAT_TEMPLATE
    tokenizer.save_pretrained(directory)
    return directory

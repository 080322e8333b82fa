"""Which of transformers' model classes the engine can run over its paged cache.

Families whose layers are not known here run as transformers wrote them, with another attention in its place. What is
said here of a class is read off its code and its configuration, before any weights are.
"""

from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig

from domain.errors import ModelLoadFailed

_ATTENTIONS = frozenset(("full_attention", "sliding_attention"))


def check_class(config: PretrainedConfig) -> None:
    """Raise ModelLoadFailed where the class that `config` names cannot run in the engine."""
    if reason := _why_not(config):
        raise ModelLoadFailed(f"models of the family '{config.model_type}' do not run here: {reason}")


def _why_not(config: PretrainedConfig) -> str:
    found = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if found is None:
        return "transformers knows no causal language model of it"
    model_class: Any = found[0] if isinstance(found, tuple) else found
    others = sorted(set(getattr(config.get_text_config(), "layer_types", None) or ()) - _ATTENTIONS)
    if model_class._is_stateful or others:
        what = f" ({', '.join(others)})" if others else ""
        return f"some of its layers remember a text by other means than keys and values for every token{what}"
    if not model_class._can_set_attn_implementation():
        return "its attention is written into its layers, where the engine cannot put its own"
    return ""

"""The full model of `emulate`, `plug-in` and `landscape`: a language model whose weights and tokenizer belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.models import load_backbone
from fulgurite.models.sizes import check_vocabulary, vocabulary_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["load_language_model", "load_tokenizer_of"]


def load_language_model(verb: str, name: str, base: str, dtype: str, trust_remote_code: bool) -> Any:
    """A model that predicts tokens, in evaluation mode.

    Args:
        verb: who asks, for messages.
        name: of the model as it was typed.
        base: hub id or folder.
        dtype: of its weights.
        trust_remote_code: run code that came with it.

    Raises:
        ValueError: its files hold no head that predicts tokens; a new one would be random.
    """
    loaded = load_backbone(base, "causal_lm", dtype=dtype, trust_remote_code=trust_remote_code)
    if loaded.new_heads:
        raise ValueError(
            f"{verb}: the weights of {name} hold no {', '.join(loaded.new_heads)}; give a model that predicts tokens"
        )
    return loaded.model.eval()


def load_tokenizer_of(verb: str, model: Any, name: str, base: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, whose tokens all have an embedding there.

    Args:
        verb: who asks, for messages.
        model: that reads the tokens.
        name: as it was typed.
        base: hub id or folder.

    Raises:
        ValueError: it has more tokens than the model has embeddings.
    """
    tokenizer = load_tokenizer(base)
    check_vocabulary(verb, vocabulary_of(model), tokenizer, name)
    return tokenizer

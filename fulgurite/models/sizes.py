"""How many tokens and positions a model has rows for: what stands beyond them is an IndexError in the middle of training."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["check_vocabulary", "positions_of", "tokens_needed", "vocabulary_of"]

_TABLES = ("position_embeddings", "wpe", "embed_positions")


def positions_of(network: nn.Module) -> int | None:
    """The most tokens that a model with a table of positions can number; None where positions are computed.

    Args:
        network: of transformers, or a module around such models, of which the smallest table counts.
    """
    found = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _TABLES:
            # RoBERTa numbers from behind the padding token, OPT and BART have two rows before the first position.
            before = 0 if module.padding_idx is None else module.padding_idx + 1
            found.append(module.num_embeddings - int(getattr(module, "offset", before)))
    # GPT-J keeps its sines in a table.
    found += [len(b) for name, b in network.named_buffers() if name.rpartition(".")[2] == "embed_positions"]
    return min(found, default=None)


def vocabulary_of(network: nn.Module) -> int | None:
    """Token ids that a model can embed and, where it writes text, predict; None for a network without token embeddings.

    Args:
        network: of transformers, or a reward model.
    """
    whole: Any = network
    inner: Any = network if hasattr(network, "get_input_embeddings") else getattr(network, "model", None)
    if inner is None or not hasattr(inner, "get_input_embeddings"):
        return None
    rows = [len(inner.get_input_embeddings().weight)]
    head = whole.get_output_embeddings() if hasattr(whole, "get_output_embeddings") else None
    if head is not None and inner is whole and getattr(head, "weight", None) is not None:
        rows.append(len(head.weight))
    return min(rows)


def tokens_needed(tokenizer: Any, known: int) -> int:
    """Ids that the tokenizer may give: its length, special tokens at its end that nothing uses not counted.

    Gemma 3's small models share a tokenizer with the larger ones, whose last token stands for a picture and has no row here.

    Args:
        tokenizer: any.
        known: ids that the model has rows for.
    """
    size = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=0))
    if size <= known:
        return size
    used = {getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "unk", "sep", "cls", "mask")}
    template = str(getattr(tokenizer, "chat_template", None) or "")
    added = getattr(tokenizer, "added_tokens_decoder", {})
    for place in range(known, size):
        token = added.get(place)
        if token is None or not token.special or place in used or str(token.content) in template:
            return size
    return known


def check_vocabulary(owner: str, known: int | None, tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer with more tokens than the model has rows for, before the first text.

    Args:
        owner: who asks, for the message.
        known: as :func:`vocabulary_of` gives it.
        tokenizer: what encodes the texts.
        name: of the model, for the message.

    Raises:
        ValueError: with both sizes.
    """
    if known is not None and (needed := tokens_needed(tokenizer, known)) > known:
        raise ValueError(
            f"{owner}: the tokenizer has {needed} tokens, but {name} has {known} rows in its embedding or output head; give a "
            "folder with the tokenizer that this model was made with, or a model whose embedding was enlarged and saved"
        )

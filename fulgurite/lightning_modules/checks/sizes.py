"""Tokens and positions that the data needs must be ones that the model has, before the first step."""

from __future__ import annotations

from typing import Any

from torch import nn

from fulgurite.models.sizes import positions_of, tokens_needed, vocabulary_of

__all__ = ["check_positions", "check_sizes", "padding_of"]


def padding_of(data: Any, otherwise: int | None) -> int | None:
    """The padding token of a datamodule's tokenizer.

    Args:
        data: the datamodule, or None.
        otherwise: given back where there is no datamodule or it has no tokenizer.
    """
    tokenizer = _tokenizer(data)
    return otherwise if tokenizer is None else tokenizer.pad_token_id


def check_sizes(owner: str, model: nn.Module, backbone: str, data: Any, extra: int = 0) -> None:
    """Refuse a tokenizer with more tokens than the model, and rows longer than its positions.

    Args:
        owner: class name of the module, for the messages.
        model: what is trained.
        backbone: its name, for the messages.
        data: the datamodule, or None, which is not looked at.
        extra: positions that an adapter puts before each row.

    Raises:
        ValueError: one of the two, with both sizes.
    """
    tokenizer, known = _tokenizer(data), vocabulary_of(model)
    if tokenizer is not None and known is not None:
        needed = tokens_needed(tokenizer, known)
        if needed > known:
            raise ValueError(
                f"{owner}: the tokenizer of {type(data).__name__} has {needed} tokens, but {backbone!r} has {known} rows in its "
                "embedding or output head. Give the tokenizer that this model was made with (--data.tokenizer), add and train the "
                "missing rows (--model.resize_embeddings new), or give a model whose embedding was enlarged and saved."
            )
    check_positions(owner, model, backbone, data, extra)


def check_positions(owner: str, model: nn.Module, backbone: str, data: Any, extra: int = 0) -> None:
    """Refuse rows longer than the model's table of positions; the arguments are those of :func:`check_sizes`."""
    rows = getattr(data, "rows", data)  # CPO's data module holds another one, with the options of its rows
    length, most = getattr(rows, "max_length", None), positions_of(model)
    if not isinstance(length, int) or most is None:
        return
    writes = getattr(rows, "task_type", None) in ("causal_lm", "seq2seq")
    answer = int(getattr(rows, "max_answer_length", None) or 0) if writes else 0
    split = getattr(data, "task_type", None) == "seq2seq"  # the answer stands in the decoder
    needed = (max(length, answer) if split else length + answer) + extra
    if needed > most:
        beside = (f" with answers of up to {answer}" if answer else "") + (
            f" and {extra} trained vectors" if extra else ""
        )
        fits = most - extra - (0 if split else answer)
        way = f"--data.max_length {fits}" if fits > 0 else "shorter answers, or a model with more positions"
        raise ValueError(
            f"{owner}: {type(data).__name__} gives rows of up to {length} tokens{beside}, but {backbone!r} knows {most} positions. "
            f"Give {way}."
        )


def _tokenizer(data: Any) -> Any:
    load = getattr(data, "load_tokenizer", None)
    return load() if callable(load) else None

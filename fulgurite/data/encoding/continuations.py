"""Tokens of a context and of what follows it, cut where the context's own tokens end: alike in training and in scoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fulgurite.data.rows.encoded import CHUNK, EncodedRows, Progress, row_offsets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["encode_continuations", "encode_pair"]


def encode_continuations(
    tokenizer: PreTrainedTokenizerBase,
    contexts: Sequence[str],
    continuations: Sequence[str],
    max_length: int,
    progress: Progress,
) -> EncodedRows:
    """Rows of which the continuations are trained on.

    Args:
        tokenizer: of the model.
        contexts: of each row.
        continuations: what follows each, with its own blank in front if it has one.
        max_length: tokens of a row at most; a longer one loses the beginning of its context.
        progress: wraps the iterator over chunks of 1000 rows.

    Raises:
        ValueError: a continuation without a token, or one that leaves no token of its context.
    """
    ids: list[int] = []
    marks: list[bool] = []
    lengths: list[int] = []
    full: list[int] = []
    for start in progress(range(0, len(contexts), CHUNK)):
        for number in range(start, min(start + CHUNK, len(contexts))):
            before, after = encode_pair(tokenizer, contexts[number], continuations[number])
            whole = [*before, *after]
            kept = whole[-max_length:]
            if not after or len(after) >= len(kept):
                raise ValueError(
                    f"encode_continuations: the answer of row {number + 1} has {len(after)} tokens, and {len(kept)} are left for "
                    "the row; needed are 1 token at least and one of the question; raise max_length, or leave the row out"
                )
            ids += kept
            marks += [False] * (len(kept) - len(after)) + [True] * len(after)
            lengths.append(len(kept))
            full.append(len(whole))
    return EncodedRows(
        {
            "input_ids": torch.tensor(ids, dtype=torch.int32),
            "offsets": row_offsets(lengths),
            "full_length": torch.tensor(full, dtype=torch.int32),
            "supervised": torch.tensor(marks, dtype=torch.bool),
        }
    )


def encode_pair(tokenizer: PreTrainedTokenizerBase, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Tokens of a context and of its continuation.

    Args:
        tokenizer: with its own special tokens in front, where it puts them there.
        context: blanks at its end go to the continuation.
        continuation: what follows.
    """
    bare = context.rstrip()
    continuation, context = context[len(bare) :] + continuation, bare
    # A text that begins with the first token already gets no second one.
    first = tokenizer.bos_token
    options = {"add_special_tokens": False} if isinstance(first, str) and first and context.startswith(first) else {}
    before: list[int] = tokenizer.encode(context, **options)
    whole: list[int] = tokenizer.encode(context + continuation, **options)
    return before, whole[len(before) :]

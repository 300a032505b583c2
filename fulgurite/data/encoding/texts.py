"""Tokenises texts and documents without a chat template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from fulgurite.data.records.examples import Examples
from fulgurite.data.rows.encoded import CHUNK, IGNORE_INDEX, EncodedRows, Progress, row_offsets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["encode_documents", "encode_examples"]


def _plain(chunks: Iterable[int]) -> Iterable[int]:
    return chunks


def encode_examples(
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    max_length: int,
    regression: bool = False,
    progress: Progress = _plain,
) -> EncodedRows:
    """Tokenises texts or pairs.

    Args:
        tokenizer: adds its special tokens, but none that a text brings itself because a template has rendered it.
        examples: the rows.
        max_length: tokens per row at most, special ones included.
        regression: labels are values, not class indices.
        progress: wraps the iterator over chunks of 1000 rows, to show how far it is.
    """
    ids: list[int] = []
    types: list[int] = []
    lengths: list[int] = []
    full: list[int] = []
    first, last = _framing(tokenizer)
    for start in progress(range(0, len(examples), CHUNK)):
        texts = [text.removeprefix(first) for text in examples.texts[start : start + CHUNK]]
        pairs = None if examples.pairs is None else examples.pairs[start : start + CHUNK]
        if pairs is None:
            texts = [text.removesuffix(last) for text in texts]
        encoded = _call(tokenizer, texts, pairs, None)
        untruncated = [len(row) for row in encoded["input_ids"]]
        if max(untruncated) > max_length:
            encoded = _call(tokenizer, texts, pairs, max_length)
        for row in encoded["input_ids"]:
            ids.extend(row)
            lengths.append(len(row))
        for row in encoded.get("token_type_ids", ()):
            types.extend(row)
        full.extend(untruncated)
    empty = next((i for i, length in enumerate(lengths) if length == 0), None)
    if empty is not None:
        number = examples.rows[empty] if examples.rows else empty + 1
        raise ValueError(f"{examples.source}, row {number}: the text has no token; remove the row or fill it")
    tensors = {
        "input_ids": torch.tensor(ids, dtype=torch.int32),
        "offsets": row_offsets(lengths),
        "full_length": torch.tensor(full, dtype=torch.int32),
    }
    if types:
        tensors["token_type_ids"] = torch.tensor(types, dtype=torch.int8)
    if regression:
        values = [float("nan")] * len(examples) if examples.labels is None else examples.labels
        tensors["labels"] = torch.tensor([float("nan") if v is None else v for v in values], dtype=torch.float32)
    else:
        classes = [None] * len(examples) if examples.labels is None else examples.labels
        tensors["labels"] = torch.tensor([IGNORE_INDEX if c is None else c for c in classes], dtype=torch.int64)
    return EncodedRows(tensors)


def _framing(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The special tokens, as text, that the tokenizer itself puts before and behind a text; "" for none."""
    around = tokenizer("a", verbose=False)["input_ids"]
    if not around:
        return "", ""
    special = set(tokenizer.all_special_ids)
    first, last = (str(tokenizer.convert_ids_to_tokens(i)) if i in special else "" for i in (around[0], around[-1]))
    return first, last


def _call(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], pairs: list[str] | None, max_length: int | None
) -> dict[str, Any]:
    # verbose=False: a row longer than the model's limit is no news here, the rows are cut afterwards.
    encoded = tokenizer(
        texts,
        pairs,
        truncation=max_length is not None,
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
        verbose=False,
    )
    return dict(encoded)


def encode_documents(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, progress: Progress = _plain
) -> EncodedRows:
    """Joins documents, each between what the tokenizer puts before a text (bos) and an end token, and cuts the stream.

    Args:
        tokenizer: its eos (or sep) token ends a document; its bos stands before one if the tokenizer adds it to texts.
        texts: the documents.
        max_length: tokens per block.
        progress: wraps the iterator over chunks of 1000 documents.
    """
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    if end is None:
        raise ValueError("encode_documents: the tokenizer has no eos and no sep token; one is needed between documents")
    if max_length < 2:
        raise ValueError(f"encode_documents: max_length is {max_length}; a block needs at least 2 tokens")
    stream: list[int] = []
    bos = tokenizer.bos_token_id
    begins = bos is not None and tokenizer("a")["input_ids"][0] == bos
    for start in progress(range(0, len(texts), CHUNK)):
        encoded = tokenizer(
            list(texts[start : start + CHUNK]), add_special_tokens=False, return_attention_mask=False, verbose=False
        )
        for row in encoded["input_ids"]:
            # A document that a template has rendered already may bring both.
            if begins and row[:1] != [bos]:
                stream.append(bos)
            stream.extend(row)
            if row[-1:] != [end]:
                stream.append(end)
    lengths = [max_length] * (len(stream) // max_length)
    if len(stream) % max_length > 1 or not lengths:
        lengths.append(len(stream) % max_length or len(stream))
    stream = stream[: sum(lengths)]  # one token alone predicts nothing
    return EncodedRows(
        {
            "input_ids": torch.tensor(stream, dtype=torch.int32),
            "offsets": row_offsets(lengths),
            "full_length": torch.tensor(lengths, dtype=torch.int32),
        }
    )

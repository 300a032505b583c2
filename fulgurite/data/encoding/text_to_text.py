"""Rows as text to text, `Input: {x} Output: {y}`, of which only y is trained on.

The paper (arXiv 2306.02320) trains a causal model on all of the text. Here the text before the answer is cut to `max_length` by
shortening x at its end, so that `Output:` always stands before the answer; generation begins with the same token ids.

A causal model reads `Input: {x} Output:` and goes on with ` {y}` and its end token. The space belongs to the answer: if it stood
before the answer, as in the paper, most tokenizers would have to begin the answer's first word with a token that no word in
running text begins with. An encoder-decoder reads `Input: {x} Output: `, with what its tokenizer puts around a text, and
answers `{y}` with its end token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fulgurite.data.encoding.prompts import TextEncoder
from fulgurite.data.rows.encoded import EncodedRows, Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TextToText"]

_CHUNK = 1000
_BEFORE, _BEHIND = "Input: ", " Output:"


class TextToText:
    """Encodes inputs with their answers, or the answers alone.

    Args:
        tokenizer: with an end token.
        max_length: tokens before the answer at most.
        max_answer_length: tokens of the answer at most, its end token included.
        seq2seq: for an encoder-decoder.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, max_answer_length: int, seq2seq: bool
    ) -> None:
        self._text = TextEncoder(tokenizer)
        self.max_answer_length, self.seq2seq = max_answer_length, seq2seq
        self._behind = self._text.continuations([_BEHIND])[0]
        self._suffix: list[int] = []
        self._prefix = self._text.prefix
        if seq2seq:
            bare = self._text.ids(["a"])[0]
            whole = list(tokenizer("a", verbose=False)["input_ids"])
            at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
            self._prefix, self._suffix = whole[:at], whole[at + len(bare) :]
        frame = len(self._prefix) + len(self._text.ids([_BEFORE])[0]) + len(self._behind) + len(self._suffix)
        self._room = max_length - len(self._prefix) - len(self._behind) - len(self._suffix)
        if max_length <= frame or max_answer_length < 2:
            raise ValueError(
                f"TextToText: max_length {max_length} and max_answer_length {max_answer_length} were given; what stands around an "
                f"input takes {frame} tokens and an answer at least 2; raise them"
            )

    def prompts(self, inputs: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Ids that stand before each answer, and how many they were before x was cut."""
        rows = self._text.ids([_BEFORE + text for text in inputs])
        around = len(self._prefix) + len(self._behind) + len(self._suffix)
        cut = [[*self._prefix, *row[: self._room], *self._behind, *self._suffix] for row in rows]
        return cut, [len(row) + around for row in rows]

    def answers(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each answer with the end token behind it; a longer one loses its end, the token that ends it too."""
        rows = self._text.ids(texts) if self.seq2seq else self._text.continuations([" " + text for text in texts])
        return [[*row, self._text.end][: self.max_answer_length] for row in rows]

    def encode(self, inputs: Sequence[str], answers: Sequence[str | None], progress: Progress) -> EncodedRows:
        """Rows with `row`, their position; an answer that is None leaves a row without a target.

        Args:
            inputs: x of each row.
            answers: y of each row.
            progress: wraps the iterator over chunks of 1000 rows.
        """
        ids: list[int] = []
        marks: list[bool] = []
        targets: list[int] = []
        lengths, full, counts = [0], [], [0]
        for start in progress(range(0, len(inputs), _CHUNK)):
            prompts, before = self.prompts(inputs[start : start + _CHUNK])
            ys = self.answers([y or "" for y in answers[start : start + _CHUNK]])
            for prompt, y, known, count in zip(prompts, ys, answers[start : start + _CHUNK], before, strict=True):
                y = y if known is not None else []
                row = prompt if self.seq2seq else prompt + y
                ids += row
                marks += [False] * len(prompt) + [True] * (len(row) - len(prompt))
                targets += y
                lengths.append(len(row))
                counts.append(len(y))
                full.append(count + (0 if self.seq2seq else len(y)))
        tensors = {
            "input_ids": torch.tensor(ids, dtype=torch.int32),
            "offsets": torch.tensor(lengths, dtype=torch.int64).cumsum(0),
            "full_length": torch.tensor(full, dtype=torch.int32),
            "row": torch.arange(len(inputs)),
        }
        if self.seq2seq:
            tensors["target_ids"] = torch.tensor(targets, dtype=torch.int32)
            tensors["target_offsets"] = torch.tensor(counts, dtype=torch.int64).cumsum(0)
        else:
            tensors["supervised"] = torch.tensor(marks, dtype=torch.bool)
        return EncodedRows(tensors)

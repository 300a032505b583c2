"""`TextDataModule`, for texts with labels or texts to model: from the rows of a split to its tokens in the cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info

from fulgurite.data.encoding.texts import encode_documents, encode_examples
from fulgurite.data.encoding.tokenizers import tokenizer_fingerprint
from fulgurite.data.records.examples import Examples
from fulgurite.data.rows.collate import CausalLMCollator, RowCollator
from fulgurite.data.rows.encoded import IGNORE_INDEX, EncodedRows
from fulgurite.data.rows.report import summary
from fulgurite.data.rows.store import cache_key, load_or_build
from fulgurite.data.sampling.loader import ResumableLoader
from fulgurite.datamodules.base import LoaderDataModule

__all__ = ["TextDataModule"]

_log = logging.getLogger(__name__)

_SHOW_PROGRESS_ROWS = 5000
_FEW = 0.1  # of the rows


def _columns(examples: Examples) -> list[list[str]]:
    return [examples.texts] if examples.pairs is None else [examples.texts, examples.pairs]


class TextDataModule(LoaderDataModule):
    """Base of the data modules of texts; a subclass provides `_read(split)` and the attributes below.

    Attributes after `setup`: `task_type` ("classification", "regression" or "causal_lm"), `num_labels` (1 for
    regression, 0 for language modelling), `label_names`, `metric_names` (the main metric first).
    """

    num_labels: int = 0
    label_names: list[str] | None = None

    def has_test_split(self) -> bool:
        """Whether there are test rows that can be scored; nothing is tokenised for the answer."""
        examples = self._read("test")
        self._forget_rows()
        return examples is not None and (examples.labels is None or any(label is not None for label in examples.labels))

    def _read(self, split: str) -> Examples | None:
        """The rows of "train", "val" or "test"; None where there is no such split."""
        raise NotImplementedError

    def _rows(self, split: str) -> EncodedRows | None:
        """The tokenised rows of a split."""
        if split not in self._splits:
            examples = self._read(split)
            if examples is not None and not len(examples):
                raise ValueError(f"{examples.source}: no row is left for {split}; at least one is needed; add rows")
            if examples is not None and split == "train" and self.limit_train is not None:
                order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(self.seed))
                examples = examples.take(order[: self.limit_train].tolist())
            if examples is not None:
                self._look(examples, split)
            self._splits[split] = None if examples is None else self._encode(examples)
        return self._splits[split]

    def _look(self, examples: Examples, split: str) -> None:
        """Says what is suspicious about a split's rows, and refuses what nothing can be learnt from.

        Raises:
            ValueError: more than a tenth of the rows have an empty text, or the tokenizer's own tokens use max_length up.
        """
        name, count = type(self).__name__, len(examples)
        empty = [row for row in range(count) if not all(column[row].strip() for column in _columns(examples))]
        if empty:
            first = (
                f"the first is row {examples.rows[empty[0]]}" if examples.rows else f"the first is the {empty[0] + 1}th"
            )
            told = f"{examples.source}: {len(empty)} of {count} {split} rows have an empty text, {first}"
            if len(empty) > _FEW * count:
                raise ValueError(f"{name}: {told}; at most a tenth is allowed; correct them, or give other columns")
            _log.warning("%s; they are used as they are", told)
        own = self.load_tokenizer().num_special_tokens_to_add(pair=examples.pairs is not None)
        least = own + (2 if examples.pairs is not None else 1)
        if self.task_type != "causal_lm" and self.max_length < least:
            raise ValueError(
                f"{name}: max_length is {self.max_length}, of which the tokenizer's own tokens take {own}; at least {least} is "
                "needed; raise it"
            )

    def _encode(self, examples: Examples) -> EncodedRows:
        tokenizer = self.load_tokenizer()
        how = ["texts", self.task_type, self.max_length, tokenizer_fingerprint(tokenizer)]
        key = cache_key(how, examples.texts, examples.pairs, examples.labels)

        def build() -> EncodedRows:
            progress = self._progress(len(examples))
            if self.task_type == "causal_lm":
                return encode_documents(tokenizer, examples.texts, self.max_length, progress)
            return encode_examples(tokenizer, examples, self.max_length, self.task_type == "regression", progress)

        encoded = load_or_build(self.cache_dir / "tokens", key, build)
        if int(encoded.lengths.max()) > tokenizer.model_max_length:
            _log.warning(
                "max_length is %d, but the tokenizer is made for %d tokens", self.max_length, tokenizer.model_max_length
            )
        return encoded

    def _progress(self, rows: int) -> Callable[[Iterable[int]], Iterable[int]]:
        silent = self.trainer is not None and self.trainer.progress_bar_callback is None
        if rows < _SHOW_PROGRESS_ROWS or silent:
            return lambda chunks: chunks
        from tqdm import tqdm

        return lambda chunks: tqdm(chunks, desc=f"tokenising {rows} rows", unit="k rows", leave=False)

    def train_dataloader(self) -> ResumableLoader:
        """Batches of training rows in a new order each epoch, with `tokens_in_window`.

        Raises:
            ValueError: all training rows have one class, so that there is nothing to learn.
        """
        labels = self._need("train", "fit").tensors.get("labels")
        classes = torch.unique(labels[labels != IGNORE_INDEX]).tolist() if self.task_type == "classification" else []
        if len(classes) == 1 and len(labels) > 1:
            name = self.label_names[classes[0]] if self.label_names else classes[0]
            raise ValueError(
                f"{type(self).__name__}: all {len(labels)} training rows have the label {name!r}; two classes at least are needed; "
                "add rows of another class, or raise limit_train"
            )
        return super().train_dataloader()

    def _padding_collator(self) -> Any:
        """Makes batches of the rows themselves."""
        kind: type[RowCollator | CausalLMCollator]
        kind = CausalLMCollator if self.task_type == "causal_lm" else RowCollator
        return kind(self._pad_token_id(), self.pad_multiple)

    def describe(self) -> str:
        """Rows, tokens, lengths, cut rows and labels of every split that has been read, one line each."""
        return "\n".join(self._lines(self._splits)) or "no split has been read; call setup() first"

    def _lines(self, splits: Iterable[str]) -> list[str]:
        there = [(split, self._splits[split]) for split in splits]
        return [
            f"{split}: {summary(rows, self.max_length, self.label_names)}" for split, rows in there if rows is not None
        ]

    def _report(self, fitting: bool) -> None:
        """Says on the first process what the splits hold that were not told of yet."""
        new = [split for split in self._splits if split not in self._reported]
        self._reported.update(new)
        if lines := self._lines(new):
            rank_zero_info("\n".join(lines))

"""A user's own files: json, jsonl, csv, tsv or parquet, with the names of their columns.

String labels become class indices in sorted order of the labels in the training file. An empty field, null and NaN are
no label: rows to test or predict may have none, others must have one. For language modelling the texts are joined, an end
token after each, and cut into blocks.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any, Literal

from fulgurite.data.records.examples import Examples, checked_text, number_in_range, whole_number
from fulgurite.data.sampling.splits import held_out_indices
from fulgurite.data.sources.tables import Table, read_table
from fulgurite.datamodules.base import TextDataModule

__all__ = ["FilesDataModule"]

_TASK_TYPES = {
    "classification": ("accuracy", "f1"),
    "regression": ("pearson", "spearman"),
    "causal_lm": ("perplexity",),
}


class FilesDataModule(TextDataModule):
    """Rows of a user's own files.

    Args:
        train_path: file of the training rows; "builtin" takes documents of the playground for causal_lm.
        val_path: file of the validation rows; None cuts val_fraction from the training rows.
        test_path: file of the test rows; rows to predict may come without the label column.
        text: name of the text column.
        text_pair: name of the second text column, for pairs.
        label: name of the label column.
        task_type: "classification", "regression" or "causal_lm".
        label_names: labels by class index; None takes the sorted labels of the training file.
        val_fraction: share of the training rows that validate where there is no val_path; 0 for no validation.
        documents: how many documents "builtin" takes.
        tokenizer: hub id, folder or playground name; None takes the backbone of the module that is trained.
        batch_size: training rows per process and batch.
        eval_batch_size: rows per process and batch elsewhere; None takes four times batch_size.
        max_length: tokens per row at most; longer rows are cut, longer documents go on in the next block.
        num_workers: processes that collate batches.
        seed: decides the order of the training rows.
        cache_dir: folder of the tokenised rows; None takes $FULGURITE_CACHE or ~/.cache/fulgurite.
        limit_train: train on that many random rows (documents) only.
        pad_multiple: padded lengths are rounded up to a multiple of it.
    """

    def __init__(
        self,
        train_path: str,
        val_path: str | None = None,
        test_path: str | None = None,
        text: str = "text",
        text_pair: str | None = None,
        label: str = "label",
        task_type: Literal["classification", "regression", "causal_lm"] = "classification",
        label_names: list[str] | None = None,
        val_fraction: float = 0.1,
        documents: int = 2000,
        tokenizer: str | None = None,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        max_length: int = 128,
        num_workers: int = 0,
        seed: int = 42,
        cache_dir: str | None = None,
        limit_train: int | None = None,
        pad_multiple: int = 1,
    ) -> None:
        super().__init__(
            tokenizer, batch_size, eval_batch_size, max_length, num_workers, seed, cache_dir, limit_train, pad_multiple
        )
        if task_type not in _TASK_TYPES:
            raise ValueError(f"FilesDataModule: task_type is {task_type!r}; allowed are {', '.join(_TASK_TYPES)}")
        if not 0.0 <= val_fraction < 1.0:
            raise ValueError(f"FilesDataModule: val_fraction is {val_fraction}; allowed is 0 up to, not including, 1")
        if label_names is not None and len(set(label_names)) < max(2, len(label_names)):
            raise ValueError(f"FilesDataModule: label_names is {label_names}; at least two different names are needed")
        if train_path == "builtin" and (task_type != "causal_lm" or documents < 2):
            raise ValueError(
                f"FilesDataModule: train_path 'builtin' with task_type {task_type!r} and {documents} documents; built-in "
                "documents serve causal_lm, and at least 2 are needed; for built-in labelled rows use GLUEDataModule"
            )
        self.train_path = train_path
        self.val_path = val_path
        self.test_path = test_path
        self.text = text
        self.text_pair = text_pair
        self.label = label
        self.task_type = task_type
        self.label_names = label_names
        self.num_labels = {"regression": 1, "causal_lm": 0}.get(task_type, len(label_names or ()))
        self.metric_names = _TASK_TYPES[task_type]
        self.val_fraction = val_fraction
        self.documents = documents
        self._files: dict[str, Examples] = {}

    def setup(self, stage: str | None = None) -> None:
        """Reads the stage's splits, and the training file's labels where they are not given."""
        self._find_labels()
        super().setup(stage)

    def _read(self, split: str) -> Examples | None:
        self._find_labels()
        if split == "test":
            return None if self.test_path is None else self._file(self.test_path, labelled=False)
        if split == "val" and self.val_path is not None:
            return self._file(self.val_path)
        train = self._file(self.train_path)
        if self.val_path is not None or self.val_fraction == 0.0:
            return train if split == "train" else None
        if len(train) < 2:
            raise ValueError(
                f"{train.source}: one row cannot be split into training and validation rows; give val_path, or set "
                "val_fraction to 0"
            )
        size = min(len(train) - 1, max(1, round(len(train) * self.val_fraction)))
        held_out, rest = held_out_indices(len(train), size)
        return train.take(held_out if split == "val" else rest)

    def _forget_rows(self) -> None:
        self._files.clear()

    def _find_labels(self) -> None:
        if self.task_type != "classification" or self.label_names is not None:
            return
        table = read_table(Path(self.train_path).expanduser())
        table.require(self.text, *([self.text_pair] if self.text_pair else []), self.label)
        found = (_name(row[self.label], where) for row, where in _placed(table))
        names = {name for name in found if name is not None}
        if len(names) < 2:
            raise ValueError(
                f"{table.source}: column {self.label!r} holds only {', '.join(map(repr, sorted(names))) or 'nothing'}; "
                "at least two different labels are needed"
            )
        # Numbers sort as numbers: 2 comes before 10.
        numeric = all(whole_number(name) is not None for name in names)
        self.label_names = sorted(names, key=int) if numeric else sorted(names)
        self.num_labels = len(self.label_names)

    def _file(self, name: str, labelled: bool = True) -> Examples:
        if name not in self._files:
            if name == "builtin":
                self._files[name] = self._builtin()
            else:
                self._files[name] = self._examples(read_table(Path(name).expanduser()), labelled)
        return self._files[name]

    def _builtin(self) -> Examples:
        from fulgurite.data.playground import builtin_rows

        texts = [str(row["text"]) for row in builtin_rows("text", "train", count=self.documents)]
        return Examples(texts, None, None, "builtin text", list(range(1, len(texts) + 1)))

    def _examples(self, table: Table, labelled: bool) -> Examples:
        columns = [self.text] + ([self.text_pair] if self.text_pair else [])
        has_label = self.task_type != "causal_lm" and (labelled or self.label in table.columns)
        table.require(*columns, *([self.label] if has_label else []))
        texts: list[list[str]] = [[] for _ in columns]
        labels: list[int | float | None] = []
        names = self.label_names or []
        # A name as it was given comes before what it means as a number.
        classes = {_plain(name): index for index, name in enumerate(names)} | {name: i for i, name in enumerate(names)}
        for row, where in _placed(table):
            for values, name in zip(texts, columns, strict=True):
                values.append(checked_text(row[name], name, where))
            if has_label:
                labels.append(self._label(row[self.label], where, labelled, classes))
        pairs = texts[1] if self.text_pair else None
        return Examples(texts[0], pairs, labels if has_label else None, table.source, table.lines)

    def _label(self, value: object, where: str, labelled: bool, classes: Mapping[str, int]) -> int | float | None:
        name = _name(value, where)
        if name is None:
            if labelled:
                raise ValueError(
                    f"{where}: the label is {value!r}, which is none; rows to train or validate on need one each; give it one, "
                    "or leave the row out"
                )
            return None
        if self.task_type == "regression":
            return number_in_range(value, float("-inf"), float("inf"), where)
        assert self.label_names is not None
        index = classes.get(str(value).strip(), classes.get(name))
        if index is None:
            known = ", ".join(map(repr, self.label_names[:20]))
            raise ValueError(f"{where}: the label is {value!r}; allowed are {known}; correct it or give label_names")
        return index


def _placed(table: Table) -> Iterator[tuple[dict[str, Any], str]]:
    """The rows, each with its place for messages."""
    unit = "row" if table.source.endswith((".json", ".parquet")) else "line"
    return ((row, f"{table.source}, {unit} {line}") for row, line in zip(table.rows, table.lines, strict=True))


def _name(value: object, where: str) -> str | None:
    """A label as text, None where there is none; 1, 1.0, "1" and "1.0" are one label, as files would else disagree."""
    if value is None or (isinstance(value, float) and isnan(value)) or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, (Sequence, Mapping)) and not isinstance(value, str):
        raise ValueError(f"{where}: the label is {value!r:.80}; one text or number is needed; correct the row")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _plain(str(value).strip())


def _plain(text: str) -> str:
    """1 for 1.0, as pandas writes whole numbers of a column in which some are missing."""
    whole = re.fullmatch(r"(-?[0-9]{1,18})\.0+", text)
    return text if whole is None else str(int(whole[1]))

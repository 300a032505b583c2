"""A user's own rows, in files of any format that fulgurite.data.sources reads, with the names of their columns.

Labels that are strings become class indices, in the sorted order of the labels of the training rows. An empty field, null
and NaN mean that a row has no label: rows to test or predict may have no label, rows to train or validate on need one each.
For language modelling the texts are joined, with an end token after each, and cut into blocks.
"""

import re
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any, Literal

from fulgurite.data.records.examples import Examples, checked_text, number_in_range, whole_number
from fulgurite.data.sampling.splits import held_out_indices
from fulgurite.data.sources.locate import find_sources
from fulgurite.data.sources.row_files import tell_shared
from fulgurite.data.sources.tables import Table, read_sources
from fulgurite.datamodules.options import inherits_options
from fulgurite.datamodules.texts import TextDataModule

__all__ = ["FilesDataModule"]

_TASK_TYPES = {
    "classification": ("accuracy", "f1"),
    "regression": ("pearson", "spearman"),
    "causal_lm": ("perplexity",),
}


@inherits_options(TextDataModule)
class FilesDataModule(TextDataModule):
    """Rows of a user's own files.

    Args:
        train_path: file; folder with files named after their split, or saved by datasets; or hub id; "builtin" takes documents
            of the playground for causal_lm.
        val_path: file or folder of the validation rows; None takes those of train_path, or cuts val_fraction.
        test_path: file or folder of the test rows, where the label column may be missing; None takes those of train_path.
        text: name of the text column.
        text_pair: name of the second text column, for pairs.
        label: name of the label column.
        task_type: "classification", "regression" or "causal_lm".
        label_names: labels by class index; None takes the sorted labels of the training file.
        val_fraction: share of the training rows that validate where there is no val_path; 0 for no validation.
        documents: how many documents "builtin" takes.
        max_length: tokens per row at most; longer rows are cut, longer documents go on in the next block.
        limit_train: train on that many random rows (documents) only.
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
        **loader: Any,
    ) -> None:
        super().__init__(**loader)
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
        self._check_columns(task_type, text, text_pair, label, label_names)
        tell_shared("FilesDataModule", [train_path], {"val": val_path, "test": test_path})
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
        self._tables: dict[str, Table | None] = {}

    @staticmethod
    def _check_columns(
        task_type: str, text: str, text_pair: str | None, label: str, label_names: list[str] | None
    ) -> None:
        """Refuses columns that stand for two things, and those that the task does not read."""
        if task_type == "causal_lm" and (text_pair is not None or label != "label"):
            given = f"text_pair {text_pair!r}" if text_pair is not None else f"label {label!r}"
            raise ValueError(f"FilesDataModule: {given} with task_type 'causal_lm', which reads one text; leave it out")
        if task_type != "classification" and label_names is not None:
            raise ValueError(
                f"FilesDataModule: label_names with task_type {task_type!r}, which has no classes; leave them out"
            )
        used = [
            column for column in (text, text_pair, label if task_type != "causal_lm" else None) if column is not None
        ]
        if twice := [column for column in used if used.count(column) > 1]:
            raise ValueError(
                f"FilesDataModule: the column {twice[0]!r} was given for two of text, text_pair and label; give each its own"
            )
        if label_names is not None and len({_plain(name.strip()) for name in label_names}) < len(label_names):
            raise ValueError(
                f"FilesDataModule: label_names is {label_names}; two of them mean one label (1 and 1.0 are one); rename them"
            )

    def setup(self, stage: str | None = None) -> None:
        """Reads the stage's splits, and the training file's labels where they are not given."""
        self._find_labels()
        super().setup(stage)

    def _read(self, split: str) -> Examples | None:
        self._find_labels()
        if split == "test":
            rows = self._table("test")
            return None if rows is None else self._examples(rows, labelled=False)
        validation = self._table("val")
        if split == "val" and validation is not None:
            return self._examples(validation)
        whole = validation is not None or self.val_fraction == 0.0
        if split == "val" and whole:
            return None
        table = self._table("train")
        train = self._builtin() if table is None else self._examples(table)
        if whole:
            return train
        if len(train) < 2:
            raise ValueError(
                f"{train.source}: one row cannot be split into training and validation rows; give val_path, or set "
                "val_fraction to 0"
            )
        size = min(len(train) - 1, max(1, round(len(train) * self.val_fraction)))
        held_out, rest = held_out_indices(len(train), size)
        return train.take(held_out if split == "val" else rest)

    def _table(self, split: str) -> Table | None:
        """The rows of a split, read once; None where there are no rows of their own for it."""
        if split not in self._tables:
            given = {"val": self.val_path, "test": self.test_path}.get(split)
            path = self.train_path if given is None else given
            sources = []
            if path != "builtin":
                owner = type(self).__name__
                sources = find_sources(path, split, owner=owner, builtin="text", only_split=given is not None)
            self._tables[split] = read_sources(sources) if sources else None
        return self._tables[split]

    def _forget_rows(self) -> None:
        self._tables.clear()

    def _find_labels(self) -> None:
        if self.task_type != "classification" or self.label_names is not None:
            return
        table = self._table("train")
        assert table is not None
        table.require(self.text, *([self.text_pair] if self.text_pair else []), self.label)
        found = (_name(row[self.label], str(where)) for row, where in zip(table.rows, table.places, strict=True))
        names = {name for name in found if name is not None}
        if len(names) < 2:
            raise ValueError(
                f"{table.source}: column {self.label!r} holds only {', '.join(map(repr, sorted(names))) or 'nothing'}; "
                "at least two different labels are needed"
            )
        kinds = {kind: value for row in table.rows if (kind := _kind(value := row[self.label])) is not None}
        if len(kinds) > 1:
            shown = ", ".join(f"{kind} such as {value!r}" for kind, value in sorted(kinds.items()))
            raise ValueError(
                f"{table.source}: column {self.label!r} holds {shown}; one kind is needed; correct the rows, or name the classes "
                "with label_names"
            )
        # Numbers sort as numbers: 2 comes before 10.
        numeric = all(whole_number(name) is not None for name in names)
        self.label_names = sorted(names, key=int) if numeric else sorted(names)
        self.num_labels = len(self.label_names)

    def _builtin(self) -> Examples:
        from fulgurite.data.playground import builtin_rows

        texts = [str(row["text"]) for row in builtin_rows("text", "train", count=self.documents)]
        return Examples(texts, None, None, "builtin text", list(range(1, len(texts) + 1)))

    def _examples(self, table: Table, labelled: bool = True) -> Examples:
        columns = [self.text] + ([self.text_pair] if self.text_pair else [])
        has_label = self.task_type != "causal_lm" and (labelled or self.label in table.columns)
        table.require(*columns, *([self.label] if has_label else []))
        texts: list[list[str]] = [[] for _ in columns]
        labels: list[int | float | None] = []
        names = self.label_names or []
        # A name as it was given comes before what it means as a number.
        classes = {_plain(name): index for index, name in enumerate(names)} | {name: i for i, name in enumerate(names)}
        for row, where in zip(table.rows, map(str, table.places), strict=True):
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
                    f"{where}: {value!r} is no label; every row to train or validate on needs a label; write one into it, or "
                    "leave the row out"
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


def _name(value: object, where: str) -> str | None:
    """A label as text, None where there is none; 1, 1.0, "1" and "1.0" are one label, as files would else disagree."""
    if value is None or (isinstance(value, float) and isnan(value)) or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, (Sequence, Mapping)) and not isinstance(value, str):
        raise ValueError(f"{where}: the label is {value!r:.80}; one text or number is needed; correct the row")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _plain(str(value).strip())


def _kind(value: object) -> str | None:
    """What kind of label a value is; None for none, and for a text of digits, which is a number in files that hold texts only."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return None if isinstance(value, float) and isnan(value) else "numbers"
    text = _plain(str(value).strip()) if isinstance(value, str) else ""
    return "words" if text and whole_number(text) is None else None


def _plain(text: str) -> str:
    """1 for 1.0, as pandas writes whole numbers of a column in which some are missing."""
    whole = re.fullmatch(r"(-?[0-9]{1,18})\.0+", text)
    return text if whole is None else str(int(whole[1]))

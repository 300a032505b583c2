"""Tokenised rows: the tokens of all rows in a few flat tensors, with the offsets of the rows in them; and selections of rows."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fulgurite.data.sampling.windows import Batch

__all__ = ["IGNORE_INDEX", "BatchRows", "EncodedRows", "Rows", "SelectedRows"]

IGNORE_INDEX = -100
CHUNK = 1000
_COUNT_ROWS = 512
_PER_TOKEN = ("input_ids", "token_type_ids", "supervised")
_NOT_PER_ROW = (*_PER_TOKEN, "target_ids", "offsets", "target_offsets")

Progress = Callable[[Iterable[int]], Iterable[int]]


class EncodedRows(Dataset[dict[str, Tensor]]):
    """Rows of token ids.

    Args:
        tensors: `input_ids` (tokens,) int32 of all rows; `offsets` (rows + 1,) int64 into it; `full_length` (rows,)
            int32, tokens before truncation; optionally `token_type_ids` (tokens,) int8; `labels` (rows,), int64 with
            -100 or float32 with NaN for a row without a label; `supervised` (tokens,) bool, the tokens that a causal
            model is trained to predict; `target_ids` (targets,) int32 with `target_offsets` (rows + 1,) int64, what an
            encoder-decoder is trained to answer; `tag` (rows,) int32, the group of a row for metrics, -1 for none; `row`
            (rows,) int64, which row of the split it is, for metrics that compare texts.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        missing = {"input_ids", "offsets", "full_length"} - set(tensors)
        if missing:
            raise ValueError(f"EncodedRows: {sorted(missing)} not given; all three of them are needed")
        ids, offsets = tensors["input_ids"], tensors["offsets"]
        if offsets.numel() < 1 or int(offsets[-1]) != ids.numel() or tensors["full_length"].numel() != len(offsets) - 1:
            raise ValueError("EncodedRows: the offsets do not fit the token ids; encode the rows again")
        supervised, targets = tensors.get("supervised"), tensors.get("target_ids")
        if supervised is not None and supervised.numel() != ids.numel():
            raise ValueError(
                f"EncodedRows: {supervised.numel()} marks 'supervised' for {ids.numel()} tokens; every token needs one mark"
            )
        if targets is not None and not _fits(tensors.get("target_offsets"), targets, len(offsets) - 1):
            raise ValueError("EncodedRows: the target_offsets do not fit the target_ids; encode the rows again")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors["offsets"]) - 1

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        start, end = self.tensors["offsets"][index : index + 2].tolist()
        row = {"input_ids": self.tensors["input_ids"][start:end].long()}
        if "token_type_ids" in self.tensors:
            row["token_type_ids"] = self.tensors["token_type_ids"][start:end].long()
        if "labels" in self.tensors:
            row["labels"] = self.tensors["labels"][index]
        elif "target_ids" in self.tensors:
            first, last = self.tensors["target_offsets"][index : index + 2].tolist()
            row["labels"] = self.tensors["target_ids"][first:last].long()
        elif "supervised" in self.tensors:
            row["labels"] = row["input_ids"].masked_fill(~self.tensors["supervised"][start:end], IGNORE_INDEX)
            row["labels"][:1] = IGNORE_INDEX  # nothing stands before a row's first token that could predict it
        if "tag" in self.tensors:
            row["tag"] = self.tensors["tag"][index].long()
        if "row" in self.tensors:
            row["row"] = self.tensors["row"][index]
        return row

    def spans(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Where the tokens of some rows begin and end in the tensors of all tokens, both (n,) int64.

        Args:
            rows: their numbers, (n,) int64.
        """
        return self.tensors["offsets"][rows], self.tensors["offsets"][rows + 1]

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row, (rows,) int64."""
        return self.tensors["offsets"].diff()

    def targets(self) -> Tensor:
        """Supervised targets of each row, (rows,) int64.

        Its label; the tokens of its answer (encoder-decoder); its supervised tokens, or without such marks all of its
        tokens, but the first, which nothing predicts.
        """
        labels = self.tensors.get("labels")
        if labels is not None:
            supervised = ~labels.isnan() if labels.is_floating_point() else labels != IGNORE_INDEX
            return supervised.long()
        if "target_offsets" in self.tensors:
            return self.tensors["target_offsets"].diff()
        if "supervised" in self.tensors:
            return _count_marks(self.tensors["supervised"], self.tensors["offsets"])
        return (self.lengths - 1).clamp(min=0)

    def take(self, indices: Sequence[int]) -> "EncodedRows":
        """A copy of the rows at `indices`, in that order."""
        taken: dict[str, Tensor] = {}
        for offsets, names in (("offsets", _PER_TOKEN), ("target_offsets", ("target_ids",))):
            if offsets in self.tensors:
                starts, ends = self.tensors[offsets][:-1].tolist(), self.tensors[offsets][1:].tolist()
                taken[offsets] = row_offsets([ends[i] - starts[i] for i in indices])
                for name in names:
                    if name in self.tensors:
                        pieces = [self.tensors[name][starts[i] : ends[i]] for i in indices]
                        taken[name] = torch.cat(pieces) if pieces else self.tensors[name][:0].clone()
        rows = torch.as_tensor(indices, dtype=torch.int64)
        per_row = {name: tensor[rows] for name, tensor in self.tensors.items() if name not in taken}
        return EncodedRows({**taken, **per_row})


class Rows(Protocol):
    """What a loader needs of rows, tokenised or packed."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Tensor]: ...

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row, (rows,) int64."""

    def targets(self) -> Tensor:
        """Supervised targets of each row, (rows,) int64."""


class SelectedRows(EncodedRows):
    """Some of the rows, any of them more than once, without a copy of their tokens.

    `tensors` holds the tokens of all rows, and of what there is one per row the values of the selected ones; it has no offsets.

    Args:
        encoded: the rows.
        indices: which, (n,) int64.
    """

    def __init__(self, encoded: EncodedRows, indices: Tensor) -> None:
        self.encoded = encoded
        self.indices = indices
        self.tensors = {
            name: tensor if name in _NOT_PER_ROW else tensor[indices]
            for name, tensor in encoded.tensors.items()
            if name not in ("offsets", "target_offsets")
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return SelectedRows, (self.encoded, self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.encoded[int(self.indices[index])]

    def spans(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """As of `EncodedRows`."""
        return self.encoded.spans(self.indices[rows])

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row, (n,) int64."""
        return self.encoded.lengths[self.indices]

    def targets(self) -> Tensor:
        """Supervised targets of each row, (n,) int64."""
        return self.encoded.targets()[self.indices]

    def take(self, indices: Sequence[int]) -> EncodedRows:
        """A copy of the rows at `indices`, in that order."""
        return self.encoded.take(self.indices[torch.as_tensor(indices, dtype=torch.int64)].tolist())


class BatchRows(Dataset[tuple[list[dict[str, Tensor]], Batch]]):
    """The rows of `encoded`, indexed by a sampler's `Batch`."""

    def __init__(self, encoded: Rows) -> None:
        self.encoded = encoded

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, batch: Batch) -> tuple[list[dict[str, Tensor]], Batch]:
        return [self.encoded[index] for index in batch.indices], batch


def row_offsets(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)


def _fits(offsets: Tensor | None, values: Tensor, rows: int) -> bool:
    return offsets is not None and len(offsets) == rows + 1 and int(offsets[-1]) == values.numel()


def _count_marks(marks: Tensor, offsets: Tensor) -> Tensor:
    """Marks of each row but on its first token, (rows,) int64; in chunks of rows, as `marks` may be a file's."""
    counts = torch.zeros(len(offsets) - 1, dtype=torch.int64)
    for start in range(0, len(counts), _COUNT_ROWS):
        bounds = offsets[start : start + _COUNT_ROWS + 1]
        inside = marks[int(bounds[0]) : int(bounds[-1])]
        sums = torch.cat([torch.zeros(1, dtype=torch.int64), inside.cumsum(0)])
        begins, ends = bounds[:-1] - bounds[0], bounds[1:] - bounds[0]
        counts[start : start + _COUNT_ROWS] = sums[ends] - sums[torch.minimum(begins + 1, ends)]
    return counts

"""What preferences cost before they are trained on: units, trees, packs, and the tokens that trees save."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fulgurite.data.rows.report import LengthReport, text_histogram
from fulgurite.data.trees.rows import TreeRows

__all__ = ["TreeReport", "tree_report"]


@dataclass(frozen=True)
class TreeReport(LengthReport):
    """Figures of one split; those of `LengthReport` are about trees and their tokens.

    Attributes:
        units: Pairs, labels or groups of an epoch.
        kind: Which of these.
        alone: Tokens of the units as rows of their own.
        path_lengths: Tokens of each completion with all that stands before it, (completions,) int64.
        labels: Desirable and undesirable answers; None without labels.
        path_limit: Tokens that such a path may have.
        trees: Whether units share tokens.
        mixed: Units of an epoch by weights, of those that there are; None where all are taken.
    """

    units: int = 0
    kind: str = "pairs"
    alone: int = 0
    path_lengths: Tensor | None = None
    labels: tuple[int, int] | None = None
    path_limit: int = 0
    trees: bool = True
    mixed: int | None = None
    limit_train: int | None = None

    def lines(self) -> list[str]:
        """The report as lines of text, the histogram of the paths' lengths last."""
        assert self.path_lengths is not None
        paths = LengthReport(**{**_base(self), "lengths": self.path_lengths})
        spread = ", ".join(f"p{p} {paths.percentile(p)}" for p in (50, 90, 99))
        count = "" if self.labels is None else f", {self.labels[0]:,} desirable and {self.labels[1]:,} not"
        limit = "" if self.limit_train is None else f", limit_train took {self.limit_train:,} of them"
        read = f"{self.tally.rows:,} rows were read{limit}, {self.tally.lost:,} left out"
        per_tree = f"{self.tokens:,} as trees, {self.alone:,} as {self.kind}: {self.alone / max(1, self.tokens):.2f} times as many"
        table = [
            (self.kind, f"{self.units:,}{count}; {read}"),
            *self.files(),
            ("trees" if self.trees else "rows", f"{self.rows:,} of {self.units / self.rows:.1f} {self.kind} each"),
            ("tokens", per_tree if self.trees else f"{self.tokens:,}"),
            ("predicted", f"{self.supervised:,} tokens of answers"),
            ("length", f"{spread}, max {int(self.path_lengths.max())}, limit {self.path_limit}, with prompt"),
        ]
        if self.schemas:
            table.append(("schema", ", ".join(sorted(set(self.schemas.values())))))
        if self.packs is not None:
            table.append(("packs", f"{self.packs:,} of {self.max_length} tokens, {self.fill:.1%} full"))
        table.append(("epoch", f"{self.batches:,} batches, {self.steps:,} optimizer steps"))
        if self.shares:
            whole = sum(self.shares.values())
            shown = ", ".join(f"{name} {count:,} ({count / whole:.1%})" for name, count in self.shares.items())
            what = "answers" if self.mixed is None else f"the {self.mixed:,} {self.kind} of an epoch, by weights"
            table.append(("shares", f"of {what}: {shown}"))
        lines = [f"{self.split}:"] + [f"  {name:<10}{value}" for name, value in table]
        lines += [f"  {line}" for line in self.tally.lines()]
        return lines + [f"  {line}" for line in text_histogram(self.path_lengths, self.path_limit)]


def tree_report(
    base: LengthReport,
    rows: TreeRows,
    kind: str,
    path_limit: int,
    trees: bool,
    chosen: Tensor | None = None,
    limit_train: int | None = None,
) -> TreeReport:
    """The figures of one split.

    Args:
        base: of the trees' tokens, as `length_report` gives it.
        rows: the trees.
        kind: what its units are.
        path_limit: tokens of a path at most.
        trees: whether units share tokens.
        chosen: which trees an epoch has, (n,) int64; None: each once.
        limit_train: rows that were taken, those that are too long among them; None: all.
    """
    marks = rows.tensors["desirable"]
    labels = (int((marks == 1).sum()), int((marks == 0).sum())) if kind == "labels" else None
    return TreeReport(
        **{**_base(base), "supervised": rows.supervised()},
        units=int(rows.targets().sum()),
        kind=kind,
        alone=int(rows.tensors["alone"].sum()),
        path_lengths=rows.path_lengths,
        labels=labels,
        path_limit=path_limit,
        trees=trees,
        mixed=None if chosen is None else int(rows.targets()[chosen].sum()),
        limit_train=limit_train,
    )


def _base(report: LengthReport) -> dict:
    return {name: getattr(report, name) for name in LengthReport.__dataclass_fields__}

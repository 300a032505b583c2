"""What a set of conversations costs, before it is trained on: rows, tokens, lengths, packs, steps, as text and picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fulgurite.data.records.findings import Tally
from fulgurite.data.rows.encoded import EncodedRows
from fulgurite.data.sources.formats import is_row_file
from fulgurite.whole_files import whole_file

__all__ = ["LengthReport", "draw_histogram", "length_report", "summary", "text_histogram"]

_BLOCKS = "▏▎▍▌▋▊▉█"
_SHOWN_FILES = 8


@dataclass(frozen=True)
class LengthReport:
    """Figures of one split.

    Attributes:
        split: Its name.
        rows: Rows of an epoch.
        tokens: Their tokens.
        supervised: Tokens that are trained on.
        lengths: Tokens of each row, (rows,) int64.
        max_length: Tokens that fit into a row or pack.
        packs: Packs of an epoch; None without packing.
        batches: Batches of an epoch and process.
        steps: Optimizer steps of an epoch.
        tally: What was read and left out.
        shares: Rows of each tag.
        schemas: How the sources were read, by their names.
        pairs: The rows have answers of their own (encoder-decoder); `tokens` and `lengths` are those of the sources.
    """

    split: str
    rows: int
    tokens: int
    supervised: int
    lengths: Tensor
    max_length: int
    packs: int | None
    batches: int
    steps: int
    tally: Tally
    shares: dict[str, int]
    schemas: dict[str, str]
    pairs: bool

    @property
    def fill(self) -> float:
        """Share of the packs' room that tokens take; of the padded rows' room without packing, rows padded alike."""
        room = self.max_length * self.packs if self.packs is not None else self.rows * int(self.lengths.max())
        return self.tokens / room

    def percentile(self, percent: float) -> int:
        """The length that this percentage of the rows does not exceed."""
        ordered = self.lengths.sort().values
        return int(ordered[max(0, -(-len(ordered) * int(percent) // 100) - 1)])

    def files(self) -> list[tuple[str, str]]:
        """What was read, as a line of the table, where it is more than one file: nothing is trained on unseen."""
        names = [Path(name).name if is_row_file(Path(name)) else name for name in self.schemas]
        more = f", and {len(names) - _SHOWN_FILES} more" if len(names) > _SHOWN_FILES else ""
        return [("files", ", ".join(names[:_SHOWN_FILES]) + more)] if len(names) > 1 else []

    def lines(self) -> list[str]:
        """The report as lines of text, the histogram last."""
        tokens = (
            f"{self.tokens:,}, {self.supervised:,} of them supervised ({self.supervised / max(1, self.tokens):.1%})"
        )
        if self.pairs:
            tokens = f"{self.tokens:,}, and {self.supervised:,} of answers, all supervised"
        lengths = ", ".join(f"p{p} {self.percentile(p)}" for p in (50, 90, 99))
        rest = self.tally.rows - self.tally.lost - self.rows
        taken = f", {rest:,} not taken here (another split, shares, a limit)" if rest > 0 and not self.pairs else ""
        table = [
            ("rows", f"{self.rows:,}; {self.tally.rows:,} were read, {self.tally.lost:,} left out{taken}"),
            *self.files(),
            ("tokens", tokens),
            ("length", f"{lengths}, max {int(self.lengths.max())}, limit {self.max_length}"),
        ]
        if self.packs is not None:
            table.append(("packs", f"{self.packs:,} of {self.max_length} tokens, {self.fill:.1%} full"))
        table.append(("epoch", f"{self.batches:,} batches, {self.steps:,} optimizer steps"))
        if self.shares:
            whole = sum(self.shares.values())
            table.append(
                ("shares", ", ".join(f"{name} {count:,} ({count / whole:.1%})" for name, count in self.shares.items()))
            )
        kinds = sorted(set(self.schemas.values()))
        lines = [f"{self.split}{', read as ' if kinds else ''}{', '.join(kinds)}:"] + [
            f"  {name:<8}{value}" for name, value in table
        ]
        lines += [f"  {line}" for line in self.tally.lines()]
        return lines + [f"  {line}" for line in text_histogram(self.lengths, self.max_length)]


def length_report(
    split: str,
    lengths: Tensor,
    targets: Tensor,
    max_length: int,
    tally: Tally,
    *,
    packs: int | None = None,
    rows_per_batch: int = 1,
    accumulate: int = 1,
    tags: tuple[Tensor, Sequence[str]] | None = None,
    schemas: dict[str, str] | None = None,
    pairs: bool = False,
) -> LengthReport:
    """The figures of one split.

    Args:
        split: its name.
        lengths: tokens of each row of an epoch, (rows,) int64.
        targets: supervised tokens of each, (rows,) int64.
        max_length: tokens that fit into a row or pack.
        tally: what was read and left out.
        packs: packs of an epoch; None without packing.
        rows_per_batch: rows, or packs, of a batch over all processes.
        accumulate: batches of an optimizer step.
        tags: tag of each row, (rows,), and the names of the tags.
        schemas: how the sources were read, by their names.
        pairs: the lengths are those of an encoder's texts, the targets those of the answers to them.
    """
    batches = -(-(len(lengths) if packs is None else packs) // rows_per_batch)
    shares: dict[str, int] = {}
    if tags is not None:
        counts = torch.bincount(tags[0].long() + 1, minlength=len(tags[1]) + 1).tolist()
        named = zip(("none", *tags[1]), counts, strict=True)
        shares = {name: count for name, count in named if count} if len(tags[1]) else {}
    return LengthReport(
        split,
        len(lengths),
        int(lengths.sum()),
        int(targets.sum()),
        lengths,
        max_length,
        packs,
        batches,
        -(-batches // accumulate),
        tally,
        shares,
        schemas or {},
        pairs,
    )


def text_histogram(lengths: Tensor, max_length: int, bins: int = 10, width: int = 40) -> list[str]:
    """Rows by length, as bars of text.

    Args:
        lengths: (rows,) int64, at least one.
        max_length: the last bin ends there.
        bins: how many.
        width: characters of the longest bar.
    """
    size = -(-max(max_length, int(lengths.max())) // bins)
    counts = torch.bincount((lengths - 1).clamp(min=0) // size, minlength=bins).tolist()
    filled = max(i for i, count in enumerate(counts) if count) + 1
    spans = [f"{index * size + 1}–{(index + 1) * size}" for index in range(filled)]
    lines = []
    for span, count in zip(spans, counts, strict=False):
        eighths = max(round(8 * width * count / max(counts)), 1 if count else 0)
        bar = _BLOCKS[-1] * (eighths // 8) + (_BLOCKS[eighths % 8 - 1] if eighths % 8 else "")
        lines.append(f"{span:>{len(spans[-1])}} {bar}{' ' if bar else ''}{count:,}")
    return lines


def draw_histogram(reports: Sequence[LengthReport], file: Path) -> bool:
    """Writes the lengths of the splits as a PNG; False where matplotlib is not installed.

    Args:
        reports: one per split.
        file: where to.
    """
    from matplotlib.figure import Figure

    # A Figure of its own, not pyplot's: no global state, no window system.
    figure = Figure(figsize=(7.2, 2.6 * len(reports) + 0.6), layout="tight", dpi=150)
    for axes, report in zip(figure.subplots(len(reports), 1, squeeze=False)[:, 0], reports, strict=True):
        top = max(report.max_length, int(report.lengths.max()))
        counts, edges = np.histogram(report.lengths.numpy(), bins=min(60, top), range=(0, top))
        axes.stairs(counts, edges, fill=True, color="#1f5a99")  # one shape; hist() draws a rectangle a bin
        for percent in (50, 99):
            value = report.percentile(percent)
            axes.axvline(value, color="#d9772b", linewidth=1)
            axes.annotate(
                f"p{percent} {value}", (value, 0.93), xycoords=("data", "axes fraction"), fontsize=8, color="#d9772b"
            )
        axes.axvline(report.max_length, color="#8a8f98", linestyle="--", linewidth=1)
        axes.set_title(f"{report.split}: {report.rows:,} rows, {report.tokens:,} tokens", loc="left", fontsize=10)
        axes.set_ylabel("rows")
    axes.set_xlabel("tokens")
    with whole_file(file) as scratch:
        figure.savefig(scratch, format="png")
    return True


def summary(encoded: EncodedRows, max_length: int, label_names: Sequence[str] | None = None) -> str:
    """Rows, tokens, lengths, cut rows and labels.

    Args:
        encoded: the tokenised rows.
        max_length: tokens at which they were cut.
        label_names: names of the classes; default: their indices.
    """
    lengths = encoded.lengths
    cut = int((encoded.tensors["full_length"] > lengths).sum())
    line = (
        f"{len(encoded)} rows, {int(lengths.sum())} tokens, length mean {lengths.float().mean().item():.1f} "
        f"max {int(lengths.max())}, {cut} cut at {max_length}"
    )
    return line + _labels(encoded, label_names)


def _labels(encoded: EncodedRows, names: Sequence[str] | None) -> str:
    labels = encoded.tensors.get("labels")
    if labels is None:
        return ""
    known = labels[encoded.targets().bool()]
    hidden = f", {len(labels) - len(known)} without a label" if len(known) < len(labels) else ""
    if not len(known):
        return hidden
    if labels.is_floating_point():
        return f", labels {known.min().item():g} to {known.max().item():g} mean {known.mean().item():.3f}{hidden}"
    counts = torch.bincount(known, minlength=len(names or ())).tolist()
    names = names or [str(index) for index in range(len(counts))]
    return ", labels " + " ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True)) + hidden

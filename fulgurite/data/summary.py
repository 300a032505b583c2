"""What a split holds, in one line."""

from collections.abc import Sequence

import torch

from fulgurite.data.encoding import EncodedRows

__all__ = ["summary"]


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

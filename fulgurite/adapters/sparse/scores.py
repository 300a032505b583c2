"""Scores of scalars, and the n best of them without holding all scores at once: for APET's ``gradient`` and ``magnitude``.

Fisher score of a scalar w: the mean over batches of (∂loss/∂w)², the empirical Fisher information's diagonal taken per batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from fulgurite.adapters.sparse.eligible import Eligible, find_eligible

__all__ = ["TopScores", "fisher_scores"]


class TopScores:
    """Keeps the ``count`` largest of the scores that it is shown; of equal scores it keeps the scalar with the smaller number."""

    def __init__(self, count: int) -> None:
        self.count = count
        # On the CPU even where a trainer makes its GPU the default device.
        self.values = torch.empty(0, dtype=torch.float32, device="cpu")
        self.places = torch.empty(0, dtype=torch.int64, device="cpu")

    def add(self, scores: torch.Tensor, start: int) -> None:
        """Look at the scores of one tensor, whose first scalar has the number ``start``."""
        flat = scores.detach().reshape(-1).float().cpu()
        if not bool(torch.isfinite(flat).all()):
            raise ValueError("APET: scores (or weights) are not finite; scalars cannot be ranked by them.")
        # Only what may be among the best is sorted: a vocabulary's embedding has hundreds of millions.
        least = float(self.values[-1]) if self.values.numel() == self.count else -float("inf")
        if flat.numel() > self.count:
            least = max(least, float(flat.topk(self.count, sorted=False).values.min()))
        better = (flat >= least).nonzero().squeeze(1)
        flat, places = flat[better], better + start
        values, places = torch.cat([self.values, flat]), torch.cat([self.places, places])
        # Equal scores are common in bf16: among them the order of the model decides, also where tensors are shown out of it.
        by_place = torch.argsort(places)
        order = by_place[torch.sort(values[by_place], descending=True, stable=True).indices[: self.count]]
        self.values, self.places = values[order], places[order]

    def positions(self) -> np.ndarray:
        """The numbers kept, sorted."""
        return np.sort(self.places.numpy())


def fisher_scores(
    model: nn.Module,
    batches: Sequence[Any],
    loss_fn: Callable[[nn.Module, Any], torch.Tensor],
    *,
    targets: str = "all",
    train: tuple[str, ...] = (),
    chunk: int = 2**28,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (parameter name, mean squared gradient over the batches), for ``attach(…, scores=…)``.

    The batches are run once for each chunk of tensors. Afterwards the model's own gradients, requires_grad flags and modes are
    what they were before.

    Args:
        model: before :func:`attach`.
        batches: a few batches, on the model's device.
        loss_fn: (model, batch) -> scalar loss.
        targets: as in the adapter's configuration.
        train: as in :func:`attach`.
        chunk: largest number of scalars whose gradients are alive at a time.

    Raises:
        ValueError: no batches.
    """
    if not len(batches):
        raise ValueError("fisher_scores: no batches were given; a few (8, say) are enough.")
    tensors = find_eligible(model, targets, train)
    parameters = dict(model.named_parameters())
    flags = {name: p.requires_grad for name, p in parameters.items()}
    training = {module: module.training for module in model.modules()}
    model.eval()  # dropout would score its own noise
    try:
        for part in _parts(tensors, chunk):
            for name, p in parameters.items():
                p.requires_grad_(name in part)
            sums = {name: torch.zeros_like(parameters[name], dtype=torch.float32) for name in part}
            for batch in batches:
                with torch.enable_grad():
                    loss = loss_fn(model, batch)
                gradients = torch.autograd.grad(loss, [parameters[name] for name in part], allow_unused=True)
                for name, gradient in zip(part, gradients, strict=True):
                    if gradient is not None:
                        sums[name] += gradient.float() ** 2
            for name in part:
                yield name, sums.pop(name) / len(batches)
    finally:
        for name, p in parameters.items():
            p.requires_grad_(flags[name])
        for module, mode in training.items():
            module.training = mode


def _parts(tensors: list[Eligible], chunk: int) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for tensor in tensors:
        if part and size + tensor.numel > chunk:
            yield part
            part, size = [], 0
        part.append(tensor.name)
        size += tensor.numel
    if part:
        yield part

"""Which scalars an APET adapter trains: positions per tensor, exact in number and the same everywhere.

APET (arXiv 2306.02320) trains any number of weights at any positions. The released code picks whole tensors only, splits the
budget in halves and often ends far from it (at a budget of 4096 it trains nothing). Here the budget of scalars is met exactly. The
released rule is kept as ``tensor_greedy`` and ``module_group``, with a warning that says how many scalars it gave.
``uniform_scalar`` draws among all eligible scalars at once, so that every set of n is equally likely; dividing n over tensors first
would never reach a small tensor at a small budget.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn

from fulgurite.adapters.config import APET
from fulgurite.adapters.sparse.draw import distinct, equal_shares
from fulgurite.adapters.sparse.eligible import Eligible
from fulgurite.adapters.sparse.masks import positions_of, read_mask
from fulgurite.adapters.sparse.scores import TopScores

__all__ = ["Positions", "select"]

Positions = dict[str, torch.Tensor]
_log = logging.getLogger(__name__)


def select(
    model: nn.Module,
    config: APET,
    eligible: list[Eligible],
    positions: Mapping[str, torch.Tensor] | None = None,
    scores: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]] | None = None,
) -> Positions:
    """Flat positions per tensor name, sorted int64 on the CPU; tensors of which nothing is trained are left out.

    Args:
        model: holds the weights that ``magnitude`` looks at.
        config: what to select.
        eligible: the tensors to choose from.
        positions: a mask by hand; then nothing is drawn.
        scores: for ``gradient``: a score per tensor name, or pairs as :func:`fulgurite.adapters.fisher_scores` yields them.

    Raises:
        ValueError: a budget of 0 or above the eligible scalars, or a mask that does not fit.
    """
    if scores is not None and (positions is not None or config.selection != "gradient"):
        beside = "positions=" if positions is not None else f"selection={config.selection!r}"
        raise ValueError(f"APET: scores= were given beside {beside}, where they decide nothing; leave one of both out.")
    if positions is None and config.selection == "mask":
        positions = read_mask(config.mask)
    if positions is not None:
        found = positions_of(positions, eligible)
        count = sum(len(index) for index in found.values())
        # Whole tensors need not meet their budget, and a checkpoint says later which positions gradients chose.
        free = config.selection in ("tensor_greedy", "module_group", "gradient")
        if config.budget is not None and count != config.budget and not free:
            raise ValueError(
                f"APET: the mask selects {count:,} scalars, but budget={config.budget:,}; leave budget out, or make them equal."
            )
        return found
    total = sum(tensor.numel for tensor in eligible)
    budget = config.budget
    if budget is None:
        raise ValueError(
            f"APET: budget is not given; it must be a whole number from 1 to {total:,} (all eligible scalars)."
        )
    if budget > total:
        raise ValueError(
            f"APET: budget={budget:,} is above the {total:,} eligible scalars of {type(model).__name__} (targets="
            f"{config.targets!r}; tied tensors count once). Lower it, or widen targets."
        )
    if config.selection == "uniform_scalar":
        return _split(distinct(total, budget, config.seed), eligible)
    if config.selection == "per_module":
        return _per_module(eligible, budget, config.seed)
    if config.selection == "magnitude":
        weights = dict(model.named_parameters())
        return _best(eligible, budget, ((t.name, weights[t.name].detach().abs()) for t in eligible))
    if config.selection == "gradient":
        if scores is None:
            raise ValueError(
                "APET: selection='gradient' needs scores: give attach(…, scores=fisher_scores(model, batches, loss_fn)), or "
                "positions= from an earlier run."
            )
        return _best(eligible, budget, scores.items() if isinstance(scores, Mapping) else scores)
    return _whole_tensors(eligible, budget, config)


def _split(chosen: np.ndarray, tensors: list[Eligible]) -> Positions:
    """Numbers in the concatenation of all tensors -> flat positions in each."""
    ends = np.cumsum([tensor.numel for tensor in tensors])
    cuts = np.searchsorted(chosen, ends)
    result: Positions = {}
    first = 0
    for tensor, end, cut in zip(tensors, ends, cuts, strict=True):
        if cut > first:
            result[tensor.name] = torch.from_numpy(chosen[first:cut] - (int(end) - tensor.numel))
        first = int(cut)
    return result


def _per_module(eligible: list[Eligible], budget: int, seed: int) -> Positions:
    modules = _by_module(eligible)
    sizes = [sum(tensor.numel for tensor in group) for group in modules]
    result: Positions = {}
    for number, (group, size, share) in enumerate(zip(modules, sizes, equal_shares(sizes, budget, seed), strict=True)):
        result.update(_split(distinct(size, share, seed, stream=number + 1), group))
    return result


def _best(eligible: list[Eligible], budget: int, scores: Iterable[tuple[str, torch.Tensor]]) -> Positions:
    """The positions of the ``budget`` largest scores; of equal ones the first in the model's order."""
    top = TopScores(budget)
    tensors = {tensor.name: tensor for tensor in eligible}
    starts = dict(zip(tensors, np.cumsum([0] + [t.numel for t in eligible])[:-1].tolist(), strict=True))
    seen = set()
    for name, score in scores:
        if name not in tensors:
            continue
        if tuple(score.shape) != tensors[name].shape:
            raise ValueError(
                f"APET: the score of {name} has the shape {tuple(score.shape)}, the tensor {tensors[name].shape}."
            )
        top.add(score, starts[name])
        seen.add(name)
    if missing := [name for name in tensors if name not in seen]:
        raise ValueError(
            f"APET: {len(missing)} eligible tensors have no score, the first is {missing[0]!r}; score them, or narrow targets."
        )
    return _split(top.positions(), eligible)


_INSERTED = ("lora", "adapter", "prompt")  # in the names of tensors that another tool put into the network


def _whole_tensors(eligible: list[Eligible], budget: int, config: APET) -> Positions:
    """The released rule: groups of inserted tensors and single native ones in random order, each taken while it fits.

    Inserted tensors (a PEFT adapter's, say) get half of the budget where there are any. A group is taken if its *first* tensor
    fits, and then whole: it can overshoot. ``module_group`` groups native tensors too, by module.
    """
    inserted = [t for t in eligible if any(word in t.name.lower() for word in _INSERTED)]
    native = [t for t in eligible if t not in inserted]
    groups = _by_module(inserted)
    singles = [[tensor] for tensor in native] if config.selection == "tensor_greedy" else _by_module(native)
    order = random.Random(budget * config.seed)  # the released code's seed; CPython's shuffle is the same everywhere
    order.shuffle(groups)
    order.shuffle(singles)
    half = budget // 2 if groups else 0
    taken = [*_fill(groups, half), *_fill(singles, budget // 2 if groups else budget)]
    count = sum(tensor.numel for tensor in taken)
    if not count:
        smallest = min(tensor.numel for tensor in eligible)
        raise ValueError(
            f"APET: selection={config.selection!r} found no whole tensor within budget={budget:,} (the smallest has {smallest:,} "
            "scalars), so nothing would be trained. Raise the budget, or take selection='uniform_scalar'."
        )
    if count != budget:
        _log.warning(
            "APET: selection=%r takes whole tensors: %s scalars in %d tensors for a budget of %s (%.1f %%)",
            config.selection, f"{count:,}", len(taken), f"{budget:,}", 100 * count / budget,
        )  # fmt: skip
    chosen = {tensor.name for tensor in taken}
    return {t.name: torch.arange(t.numel, device="cpu") for t in eligible if t.name in chosen}


def _fill(groups: list[list[Eligible]], left: int) -> list[Eligible]:
    taken: list[Eligible] = []
    for group in groups:
        if left <= 0:
            break
        if group[0].numel <= left:
            taken += group
            left -= sum(tensor.numel for tensor in group)
    return taken


def _by_module(tensors: list[Eligible]) -> list[list[Eligible]]:
    groups: dict[str, list[Eligible]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.layer, []).append(tensor)
    return list(groups.values())

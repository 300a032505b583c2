"""The preference objective: log-probabilities of completions against a reference, a loss over them, and their figures.

:class:`~fulgurite.lightning_modules.PreferenceModule` and stage cdpo of :class:`~fulgurite.lightning_modules.CPOModule` optimise
it. With a cache the reference's log-probabilities are computed once, before the first step.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from fulgurite.lightning_modules.objectives.completions import CompletionLogProbs
from fulgurite.lightning_modules.objectives.step import Batch, Objective, Step, supervised_places
from fulgurite.lightning_modules.reference.cache import ReferenceCache
from fulgurite.lightning_modules.reference.model import Reference
from fulgurite.lightning_modules.reference.whole_pass import cached_reference
from fulgurite.losses import (
    Completions,
    PreferenceLoss,
    group_table,
    kl_baseline,
    kto_weight_warning,
    means,
    pairs_of_groups,
    preference_metrics,
)

__all__ = ["PreferenceObjective"]


class PreferenceObjective(Objective):
    """A preference loss over pairs, groups or labels; its Step's metrics are :func:`fulgurite.losses.preference_metrics`.

    Args:
        loss: what is optimised.
        reference: the model that the policy is compared with.
        cache: compute the reference's log-probabilities once, before the first step.
        cache_file: file of such log-probabilities; None takes one in the datamodule's cache folder.
        use_margin: subtract each pair's margin.

    Raises:
        ValueError: options that contradict each other.
    """

    main = "rewards/accuracies"
    metric_names = (main,)

    def __init__(
        self,
        loss: PreferenceLoss,
        reference: Reference,
        *,
        cache: bool = True,
        cache_file: str | None = None,
        use_margin: bool = False,
    ) -> None:
        self.name, self.reads = ", ".join(loss.names), loss.kind
        if cache_file is not None and not cache:
            raise ValueError(
                f"{reference.owner}: reference_cache was given with cache_reference=false; give one or the other"
            )
        if not loss.needs_reference and (reference.model or cache_file):
            raise ValueError(f"{reference.owner}: {self.name} has no reference; leave the reference out")
        self.loss, self.reference, self.use_margin = loss, reference, use_margin
        self.cache, self.cache_file = cache, cache_file
        self.log_probs = CompletionLogProbs()
        self._cached: ReferenceCache | None = None

    def __call__(self, network: nn.Module, batch: Batch) -> Step:
        """Loss over the batch's units."""
        reference = self.reference_log_probs(network, batch) if self.loss.needs_reference else None
        completions = Completions(self.log_probs(network, batch), batch["lengths"], reference)
        units = self._units(batch, completions)
        parts = self.loss(completions, **units)
        shown = {name: value for name, value in units.items() if name not in ("pairs", "margin", "weight", "table")}
        pairs = self._compared(batch)
        # A rank whose share only fills up a batch has none.
        empty = pairs is not None and not pairs.numel()
        found = {} if empty else preference_metrics(self.loss, completions, pairs=pairs, **shown)
        return Step(parts.loss_sum, parts.units, metrics=found)

    def on_host(self, batch: Batch) -> Batch:
        """Log-probabilities of a cached reference, and which completions are compared, which all follow from the CPU's tensors."""
        batch = super().on_host(batch)
        if "lengths" not in batch or batch["lengths"].device.type != "cpu":
            return batch
        batch = dict(batch)
        if self.loss.needs_reference and self._cached is not None and "reference" not in batch:
            found = self._cached.look_up(batch["key"])
            if found is not None:
                batch["reference"] = found
        if self.loss.kind == "labels":
            batch["supervised"] = (batch["desirable"] >= 0).nonzero().squeeze(1)
        elif self.loss.kind == "groups":
            batch["pairs"] = self._compared(batch)  # type: ignore[assignment]
            batch["table"] = group_table(batch["group"])
        return batch

    def _compared(self, batch: Batch) -> torch.Tensor | None:
        """Pairs of completions whose rewards are compared in the figures; None: those of labels."""
        if self.loss.kind == "pairs" or batch["pairs"].numel():
            return batch["pairs"]
        return pairs_of_groups(batch["group"], batch["score"]) if self.loss.kind == "groups" else None

    def prepare(self, network: nn.Module, trainer: Any) -> None:
        """Have the reference ready: log-probabilities of every completion from disk, or computed now."""
        self._weigh_labels(getattr(trainer, "datamodule", None))
        if not self.loss.needs_reference:
            return
        if self.cache:
            self._cached = cached_reference(self.reference, network, self.log_probs, trainer, self.cache_file)
        else:
            self.reference.hold()

    def logged(self, step: Step) -> dict[str, torch.Tensor]:
        """Rewards, log-probabilities and hits of the batch; a label that did not occur has no figures.

        Only labels ask the device which of them occurred.
        """
        if self.loss.kind == "labels":
            return means(dict(step.metrics))
        return super().logged(step)

    @torch.no_grad()
    def reference_log_probs(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        """(C,) of the reference: looked up, or computed.

        Args:
            network: the policy.
            batch: with ``reference`` (C,), or with ``key`` (C,) and what the log-probabilities are computed from.
        """
        if "reference" in batch:
            return batch["reference"]
        if self._cached is not None:
            found = self._cached.look_up(batch["key"])
            if found is not None:
                return found
        with self.reference.network(network) as asked:
            return self.log_probs(asked, batch)

    def _weigh_labels(self, data: Any) -> None:
        """Warn where KTO's weights do not balance the labels of the training rows."""
        if "kto" not in self.loss.names or not hasattr(data, "reports"):
            return
        for report in data.reports():
            labels = getattr(report, "labels", None)
            if report.split == "train" and labels is not None:
                good, bad = labels
                message = kto_weight_warning(good, bad, self.loss.desirable_weight, self.loss.undesirable_weight)
                if message is not None:
                    rank_zero_warn(message)

    def _units(self, batch: Batch, completions: Completions) -> dict[str, Any]:
        """What the loss reads beside the completions."""
        if self.loss.kind == "pairs":
            margin = {"margin": batch["pair_margin"]} if self.use_margin else {}
            return {"pairs": batch["pairs"], "weight": batch["pair_weight"], **margin}
        if self.loss.kind == "groups":
            return {"group": batch["group"], "scores": batch["score"], "table": batch.get("table")}
        assert completions.reference is not None
        baseline = kl_baseline(completions.log_probs, completions.reference, batch["kl"])
        total, number = _over_ranks(baseline.total, baseline.number)
        places = supervised_places(batch, batch["desirable"] >= 0)
        z0 = places.guard((total / number.clamp(min=1)).to(completions.log_probs.dtype))
        examples = places.at
        return {
            "desirable": batch["desirable"][examples] == 1,
            "examples": examples,
            "kl": z0,
            "weight": batch["completion_weight"][examples],
        }


def _over_ranks(total: torch.Tensor, number: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums over all processes, () each."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return total, number
    both = torch.stack([total.double(), number.double()])
    torch.distributed.all_reduce(both)
    return both[0], both[1]

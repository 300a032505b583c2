"""What is measured of a fused model by domain: perplexity, token accuracy, and the weight that the gate gives each specialist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torchmetrics

from fulgurite.lightning_modules.metrics.by_name import Perplexity
from fulgurite.lightning_modules.metrics.measures import NamedMeasures
from fulgurite.lightning_modules.objectives.step import Batch, Step

__all__ = ["FusionMeasures"]


class FusionMeasures(NamedMeasures):
    """The named measures, and perplexity, token accuracy and gate weights by domain: means over the domain's answer tokens.

    Args:
        names: of the metrics over all domains.
        domains: names of the groups in a step's ``groups``; without any, everything is one domain, "all".
        specialists: their names.
        prefix: put before each name, such as "val_".
    """

    def __init__(self, names: Sequence[str], domains: Sequence[str], specialists: Sequence[str], prefix: str) -> None:
        super().__init__(names, 1, domains, prefix)
        self.grouped = bool(domains)
        self.domains, self.specialists, self.prefix = tuple(domains) or ("all",), tuple(specialists), prefix
        self.perplexities = torch.nn.ModuleList(Perplexity() for _ in self.domains)
        self.accuracies = torch.nn.ModuleList(torchmetrics.MeanMetric() for _ in self.domains)
        self.gates = torch.nn.ModuleList(torchmetrics.MeanMetric() for _ in self.domains for _ in self.specialists)

    def take(self, step: Step, batch: Batch) -> None:
        """Take one batch in.

        Args:
            step: with token_losses (K,), correct (K,), details gate_weights (K, E) and, where there are domains, groups (K,).
            batch: is not read.
        """
        super().take(step, batch)
        weights = step.details["gate_weights"]
        assert step.token_losses is not None and step.correct is not None
        for index in range(len(self.domains)):
            mine = torch.ones_like(step.correct) if not self.grouped or step.groups is None else step.groups == index
            count = mine.sum()
            if not int(count):
                continue
            cast(Perplexity, self.perplexities[index]).update(step.token_losses[mine].sum(), count)
            cast(torchmetrics.MeanMetric, self.accuracies[index]).update(step.correct[mine].float())
            for e in range(len(self.specialists)):
                gate = cast(torchmetrics.MeanMetric, self.gates[index * len(self.specialists) + e])
                gate.update(weights[mine, e].float())

    def named(self) -> dict[str, torchmetrics.Metric]:
        """The metrics by the name they are logged under: over all domains, then by domain."""
        found = super().named()
        for index, domain in enumerate(self.domains):
            if self.grouped:
                found[f"{self.prefix}perplexity/{domain}"] = cast(torchmetrics.Metric, self.perplexities[index])
                found[f"{self.prefix}token_accuracy/{domain}"] = cast(torchmetrics.Metric, self.accuracies[index])
            for e, name in enumerate(self.specialists):
                gate = self.gates[index * len(self.specialists) + e]
                found[f"{self.prefix}gate/{domain}/{name}"] = cast(torchmetrics.Metric, gate)
        return found

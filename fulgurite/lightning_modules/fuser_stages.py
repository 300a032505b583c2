"""The two stages of UltraFuser inside one fit: what is trained when, and how one optimizer grows when the second begins.

Stage 1 trains the gate alone; the specialists' parameters do not require gradients, so they have none and take no optimizer
memory. At the first batch of stage 2 they are switched on and join the optimizer and the learning-rate scheduler as groups of
their own. A run that resumes in stage 2 has them from the start, so that the saved optimizer state fits.

DDP synchronises only what required gradients when it wrapped the module. What joins later is averaged over the processes here,
behind the backward of each optimizer step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from fulgurite.adapters import Adapter
from fulgurite.optim import StagedSchedule

__all__ = ["Stages", "check_groups", "short_names"]

GATE, GATE_BIASES = "gate", "gate_no_decay"


class Stages:
    """Groups and learning rates of both stages.

    Args:
        steps: optimizer steps of each stage.
        gate_rates: peak learning rate of the gate in each stage.
        specialist_rate: peak learning rate of the specialists in stage 2.
        weight_decay: decoupled decay of matrices.
        warmup_ratio: share of each stage's steps spent on linear warm-up.
        shape: decay after the warm-up.
    """

    def __init__(
        self,
        steps: Sequence[int],
        gate_rates: Sequence[float],
        specialist_rate: float,
        weight_decay: float,
        warmup_ratio: float,
        shape: str,
    ) -> None:
        self.schedule = StagedSchedule(steps, warmup_ratio, shape)
        self.gate_rates, self.specialist_rate, self.weight_decay = list(gate_rates), specialist_rate, weight_decay

    def gate_groups(self, gate: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
        """The gate's parameters as groups of an optimizer."""
        return self._groups("gate", gate, self.gate_rates[0])

    def specialist_groups(self, adapters: Sequence[Adapter], params: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
        """What is trained of the specialists as groups of an optimizer.

        Args:
            adapters: of the specialists, whose own groups are taken: those of SoRA's gates carry its threshold.
            params: trained where there are no adapters.
        """
        if not adapters:
            return self._groups("specialists", params, self.specialist_rate)
        found: list[dict[str, Any]] = []
        for adapter in adapters:
            for group in adapter.param_groups(self.specialist_rate, self.weight_decay):
                name = "specialists" if group["name"] == "low_rank" else f"specialists_{group['name']}"
                options = {**group, "name": name, "params": []}
                same = next((other for other in found if {**other, "params": []} == options), None)
                if same is None:
                    found.append(same := options)
                known = {id(p) for other in found for p in other["params"]}
                same["params"] += [p for p in group["params"] if id(p) not in known]
        return [group for group in found if group["params"]]

    def factors(self, groups: Sequence[dict[str, Any]]) -> list[Callable[[int], float]]:
        """For each group the factor on its learning rate at an optimizer step."""
        return [self._gate_factor if group["name"].startswith("gate") else self._specialist_factor for group in groups]

    def join(self, optimizer: Any, scheduler: Any, groups: Sequence[dict[str, Any]]) -> None:
        """Adds the specialists to a running optimizer and its LambdaLR.

        Args:
            optimizer: that of the gate.
            scheduler: a LambdaLR on it.
            groups: of :meth:`specialist_groups`.
        """
        step = scheduler.last_epoch
        for group, factor in zip(groups, self.factors(groups), strict=True):
            rate = group["lr"]
            optimizer.add_param_group({**group, "initial_lr": rate, "lr": rate * factor(step)})
            scheduler.base_lrs.append(rate)
            scheduler.lr_lambdas.append(factor)

    def _gate_factor(self, step: int) -> float:
        return self.schedule(step) * self.gate_rates[self.schedule.stage(step)] / self.gate_rates[0]

    def _specialist_factor(self, step: int) -> float:
        return self.schedule(step) if self.schedule.stage(step) else 0.0

    def _groups(self, name: str, params: Sequence[nn.Parameter], rate: float) -> list[dict[str, Any]]:
        matrices, rest = [p for p in params if p.dim() >= 2], [p for p in params if p.dim() < 2]
        found: list[dict[str, Any]] = [
            {"name": name, "params": matrices, "lr": rate, "weight_decay": self.weight_decay},
            {"name": f"{name}_no_decay", "params": rest, "lr": rate, "weight_decay": 0.0},
        ]
        return [group for group in found if group["params"]]


def check_groups(groups: Sequence[dict[str, Any]], states: Sequence[dict[str, Any]]) -> None:
    """Refuses the optimizer's state of a run that grouped the specialists' parameters in another way.

    Earlier versions put SoRA's gates among all vectors, without their threshold: the saved options would take its place.

    Args:
        groups: of the run that is to go on.
        states: of the checkpoint's optimizers.

    Raises:
        ValueError: groups of other names.
    """
    mine = [str(group["name"]) for group in groups]
    for state in states:
        saved = [str(group.get("name")) for group in state.get("param_groups", [])]
        if saved != mine:
            raise ValueError(
                "UltraFuserModule: this checkpoint of stage 2 was written by an earlier version, or with other specialists: its "
                f"optimizer trained the groups {', '.join(saved)}, and this one trains {', '.join(mine)}. The run cannot go on "
                "from it: begin again, or go on from a checkpoint of stage 1. test and generate take it as before."
            )


def short_names(paths: Sequence[str]) -> list[str]:
    """A name for each path: its last part, or, where several end alike (``runs/code/adapter``), the last part that differs.

    Args:
        paths: hub ids, folders or playground names. Names that are still the same are numbered.
    """
    parts = [path.rstrip("/\\").replace("\\", "/").split("/") for path in paths]
    names = []
    for mine in parts:
        alike = [other for other in parts if other[-1] == mine[-1]]
        depth = 1
        while depth < min(map(len, alike)) and len({other[-depth] for other in alike}) < len(alike):
            depth += 1
        names.append(mine[-depth] if len({other[-depth] for other in alike}) == len(alike) else mine[-1])
    return [name if names.count(name) == 1 else f"{name}-{i}" for i, name in enumerate(names)]

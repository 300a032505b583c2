"""Handle of LoRA and SoRA: gates, retired ranks, merging into W + s·B diag(g) A, and PEFT's LoRA layout."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from fulgurite.adapters.config import LoRA, SoRA
from fulgurite.adapters.handle import Adapter
from fulgurite.adapters.layers.experts import ExpertsBranch
from fulgurite.adapters.layers.layer import weight_is_transposed
from fulgurite.adapters.layers.low_rank_branch import Clock, LowRankBranch, RankRow
from fulgurite.adapters.layers.stacks import expert_stacks
from fulgurite.adapters.low_rank.first_forward import FirstForward, keep_fast_path_away
from fulgurite.adapters.low_rank.merging import merge, refusal, unmerge
from fulgurite.adapters.low_rank.peft_export import RENAMED, folded, lora_layout, parameter_places
from fulgurite.adapters.low_rank.retirement import rank_table, retire
from fulgurite.adapters.peft_folder import write_folder

__all__ = ["LowRankAdapter"]

_log = logging.getLogger(__name__)


class LowRankAdapter(Adapter):
    """Handle of LoRA and SoRA; see :class:`fulgurite.adapters.Adapter`."""

    config: LoRA | SoRA
    _described_as = "input features, output features, rank, and experts"

    def __init__(
        self,
        model: nn.Module,
        name: str,
        config: LoRA | SoRA,
        layer_names: list[str],
        head_names: list[str],
        train: tuple[str, ...],
        clock: Clock,
    ) -> None:
        super().__init__(model, name, config, layer_names, head_names, train)
        self._clock = clock

    @property
    def branches(self) -> dict[str, LowRankBranch]:
        """This adapter's branches, by the layer's qualified name, or by that of the Parameter in which experts are stacked."""
        found: dict[str, LowRankBranch] = {}
        for name, layer in self.layers.items():
            here = layer.branches[self.name]
            parts = here.items() if isinstance(here, ExpertsBranch) else [("", here)]
            found |= {f"{name}.{key}".strip("."): cast(LowRankBranch, branch) for key, branch in parts}
        return found

    @property
    def gates(self) -> list[nn.Parameter]:
        """The gates of all layers, (r,) each, (E, r) of experts; empty for plain LoRA."""
        return [branch.gate for branch in self.branches.values() if branch.gate is not None]

    def penalty(self) -> torch.Tensor | float:
        """l1 · mean|g| over all gates, which SoRA's released code adds to the loss; 0.0 where the configuration has no l1."""
        l1 = getattr(self.config, "l1", 0.0)
        return l1 * torch.cat([gate.flatten() for gate in self.gates]).abs().mean() if l1 else 0.0

    def after_step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Call once after each optimizer step: counts it, and looks for dead ranks every ``look_every`` steps.

        Returns:
            Whether a rank was retired now.
        """
        self._clock.steps += 1
        if not isinstance(self.config, SoRA) or not self.config.patience or self._clock.steps % self.config.look_every:
            return False
        return retire(self.branches, optimizer, self.config.look_every, self.config.patience) > 0

    def shrink(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Cut retired ranks out of parameters and optimizer state. Not while DDP or FSDP holds the parameters.

        Args:
            optimizer: the one that trains this adapter, if training goes on; default: the one given to :meth:`watch`.
        """
        optimizer = optimizer or self._watching()
        for branch in self.branches.values():
            branch.shrink(optimizer)

    def prune(self, optimizer: torch.optim.Optimizer | None = None) -> int:
        """Retire every rank whose gate is zero, now, and cut it out; returns how many ranks left."""
        optimizer = optimizer or self._watching()
        gone = retire(self.branches, optimizer)
        self.shrink(optimizer)
        return gone

    def rank_table(self) -> list[RankRow]:
        """Ranks and exact parameter counts per module, in the model's order; one device synchronisation."""
        return rank_table(self.branches)

    @property
    def can_merge(self) -> bool:
        """False where a weight is quantised, tied to another module, or trained by APET."""
        return refusal(self.name, self.model, self.layers) is None

    def merge(self, reversible: bool = False) -> int:
        """Fold the adapter into the base weights: W ← W + s·B diag(g) A, computed in float64 and rounded once.

        Args:
            reversible: keep a copy of each weight, so that :meth:`unmerge` gives the base back bit for bit.

        Returns:
            Bytes that the kept copies take (0 if not reversible).

        Raises:
            RuntimeError: it is merged already, or a weight is quantised, tied to another module, or trained by APET.
        """
        return merge(self.name, self.model, self.layers, reversible)

    def unmerge(self) -> None:
        """Put the base weights back, bit for bit.

        Raises:
            RuntimeError: not merged, or merged without ``reversible=True``.
        """
        unmerge(self.name, self.layers)

    def export_peft(
        self,
        folder: str | Path,
        *,
        rank_pattern: bool = False,
        base_model: str | None = None,
        task_type: str | None = None,
    ) -> None:
        """Write a folder that stock PEFT (and vLLM) loads: gates are folded into A, dead ranks are left out. Needs no merge.

        The arguments are those of :meth:`fulgurite.adapters.Adapter.export_peft`.
        """
        config = self.config
        linear, stacks = self._linear_and_stacks()
        parameters = {name: name for name, branch in self.branches.items() if branch.experts}
        if expert_stacks(self.model):
            parameters |= {name: f"{name}.weight" for name in linear if name.rpartition(".")[2] in RENAMED}
        layers, layout = lora_layout(self.branches, config.alpha, config.rank, rank_pattern, parameters)
        if parameters and config.dropout:
            _log.warning("export_peft: PEFT has no dropout for target_parameters; the folder says lora_dropout 0.")
        layout["lora_dropout"] = 0.0 if parameters else config.dropout
        layout["fan_in_fan_out"] = bool(linear) and all(map(weight_is_transposed, linear.values()))
        left = [(layer, [key for key in keys if f"{layer}.{key}".lstrip(".") in layers]) for layer, keys in stacks]
        places = parameter_places(left)
        write_folder(Path(folder), self.model, layers, self.heads, layout, base_model, task_type, parameters, places)

    def low_rank_factors(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]] | None:
        """By layer name A (r, K), with scale and gates in it, and B (N, r) of the ranks left; None with trained modules.

        Experts stand under the name of their Parameter, with E in front of both shapes.
        """
        if self.head_names:
            return None
        pairs = {name: folded(branch) for name, branch in self.branches.items()}
        return {name: (self.branches[name].scaling * a, b) for name, (a, b) in pairs.items()}

    def summary(self) -> list[tuple[str, str]]:
        """(what, figure) for people: adapted modules, ranks, and parameters kept."""
        rows = self.rank_table()
        parameters, kept = sum(row.parameters for row in rows), sum(row.parameters_kept for row in rows)
        return [
            ("adapted modules", f"{len(rows)}, {sum(row.nonzero == 0 for row in rows)} without a rank left"),
            ("ranks away from zero", f"{sum(row.nonzero for row in rows)} of {sum(row.rank for row in rows)}"),
            ("adapter parameters kept", f"{kept:,} of {parameters:,} ({100 * kept / max(parameters, 1):.1f} %)"),
        ]

    def check_description(self, description: dict[str, Any], folder: Path) -> None:
        """Raise a ValueError if the folder was made for other layers, or with another scale."""
        super().check_description(description, folder)
        self.check_config(description["adapter"], str(folder))

    def check_config(self, stored: Mapping[str, Any], where: str) -> None:
        """Refuse another scale α/rank: A and B would be loaded, and their product multiplied by another number."""
        given = stored.get("init_args")
        alpha, rank = (given.get(name) if isinstance(given, Mapping) else None for name in ("alpha", "rank"))
        if not isinstance(alpha, int | float) or not isinstance(rank, int) or not rank:
            return
        if abs(alpha / rank - self.config.alpha / self.config.rank) > 1e-9 * alpha / rank:
            raise ValueError(
                f"load_adapter: {where} was trained with alpha={alpha:g} at rank={rank}, and this adapter has "
                f"alpha={self.config.alpha:g} at rank={self.config.rank}, another scale alpha/rank; give the alpha that it was "
                "trained with"
            )

    def description(self) -> dict[str, Any]:
        """{"layers": {name: [input features, output features, rank]}}; of experts their number as well."""
        sizes = {name: [b.in_features, b.out_features, b.max_rank] for name, b in self.branches.items()}
        return {
            "layers": {name: size + [e for e in [self.branches[name].experts] if e] for name, size in sizes.items()}
        }

    def on_attached(self, check_forward: bool) -> None:
        """Keep PyTorch's fast path away from the adapted layers and watch the first forward."""
        self.hooks += keep_fast_path_away(self.model, self.layer_names)
        if check_forward:
            self.hooks.append(FirstForward(self.model, self.layers))

    def _fits(self, key: str, saved: torch.Size, own: torch.Size) -> bool:
        """Ranks may have been cut out of the saved tensors, or out of this adapter's."""
        layer, _, kind = key.rpartition(".")
        if layer not in self.branches or kind not in ("lora_a", "lora_b", "gate", "_extra_state"):
            return saved == own
        if kind == "_extra_state":
            return len(saved) == 1
        ranks = len(own) - (2 if kind == "lora_a" else 1)  # the dimension that counts them
        sizes = list(zip(saved, own, strict=False))
        return len(saved) == len(own) and all(
            a == b or (dim == ranks and a <= self.config.rank) for dim, (a, b) in enumerate(sizes)
        )

    def _own_groups(self, lr: float, weight_decay: float, gate_lr: float | None) -> list[dict[str, Any]]:
        low_rank = [p for b in self.branches.values() for p in (b.lora_a, b.lora_b)]
        groups: list[dict[str, Any]] = [
            {"name": "low_rank", "params": low_rank, "lr": lr, "weight_decay": weight_decay}
        ]
        if isinstance(self.config, SoRA):
            rate = lr if gate_lr is None else gate_lr
            groups.append(
                {
                    "name": "gates",
                    "params": self.gates,
                    "lr": rate,
                    "weight_decay": 0.0,
                    "proximal_eps": 1e-6,
                    "threshold": self.config.threshold,
                    "threshold_scaling": self.config.threshold_scaling,
                    "peak_lr": rate,
                    "prox": self.config.prox,
                }
            )
        return groups

    def _own_parameters(self) -> int:
        each = [(b, b.in_features + b.out_features + int(b.gate is not None)) for b in self.branches.values()]
        return sum(sum(branch.lives) * per_rank for branch, per_rank in each)

    def _branch_keys(self) -> list[tuple[str, str]]:
        _, stacks = self._linear_and_stacks()
        keys = dict(stacks)
        return [(n, f"{key}.lora_a".lstrip(".")) for n in self.layer_names for key in keys.get(n, [""])]

    def _linear_and_stacks(self) -> tuple[dict[str, nn.Module], list[tuple[str, list[str]]]]:
        """The adapted linear layers by name; the modules of experts by name, with their adapted Parameters in order."""
        linear: dict[str, nn.Module] = {}
        stacks = []
        for name, layer in self.layers.items():
            here = layer.branches[self.name]
            if isinstance(here, ExpertsBranch):
                stacks.append((name, [key for key in layer._parameters if key in here]))
            else:
                linear[name] = layer
        return linear, stacks

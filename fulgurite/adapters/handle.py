"""The handle that attach() returns: switch, train, prune, merge, save, export. It holds modules and names, never Parameters."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from fulgurite.adapters import merging, retirement
from fulgurite.adapters.branch import Clock, LowRankBranch
from fulgurite.adapters.config import LoRA, SoRA
from fulgurite.adapters.layer import AdaptedLayer, Site, take_branch

__all__ = ["Adapter", "RankRow"]


class RankRow(NamedTuple):
    """One adapted module: ranks at the start, not yet retired, with a gate away from zero; parameters at the start and kept."""

    module: str
    rank: int
    live: int
    nonzero: int
    parameters: int
    parameters_kept: int


class Adapter:
    """Handle of one attached adapter; made by :func:`attach`.

    Attributes:
        model: the module it is attached to.
        name: its name there.
        config: what it was made of.
        layer_names: qualified names of the adapted layers.
        head_names: qualified names of the fully trained modules.
    """

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
        self.model, self.name, self.config = model, name, config
        self.layer_names, self.head_names, self.train_patterns = layer_names, head_names, train
        self._clock = clock
        self._watched: weakref.ref[torch.optim.Optimizer] | None = None

    @property
    def site(self) -> Site:
        """What the adapters of the model share."""
        site = self.model.__dict__.get("_fulgurite_site")
        if site is None or site.adapters.get(self.name) is not self:
            raise RuntimeError(f"Adapter {self.name!r} is not attached any more; call attach() again.")
        assert isinstance(site, Site)
        return site

    @property
    def layers(self) -> dict[str, AdaptedLayer]:
        """Adapted layers by qualified name, in the model's order."""
        return {name: cast(AdaptedLayer, self.model.get_submodule(name)) for name in self.layer_names}

    @property
    def branches(self) -> dict[str, LowRankBranch]:
        """This adapter's branch of each layer, by the layer's qualified name."""
        return {name: cast(LowRankBranch, layer.branches[self.name]) for name, layer in self.layers.items()}

    @property
    def heads(self) -> dict[str, nn.Module]:
        """The fully trained modules, by qualified name."""
        return {name: self.model.get_submodule(name) for name in self.head_names}

    @property
    def gates(self) -> list[nn.Parameter]:
        """The gates of all layers, (r,) each; empty for plain LoRA."""
        return [branch.gate for branch in self.branches.values() if branch.gate is not None]

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the block the model computes without this adapter: the frozen base, if it is the only one.

        Fully trained modules (``train=``) keep their trained weights.
        """
        if any(self.name in layer.merged for layer in self.layers.values()):
            raise RuntimeError(
                f"Adapter {self.name!r} is merged into the base weights; call unmerge() before disabled()."
            )
        with self.site.using(tuple(n for n in self.site.active if n != self.name)):
            yield

    @contextmanager
    def only(self) -> Iterator[None]:
        """Within the block this adapter is the only active one."""
        with self.site.using((self.name,)):
            yield

    def checkpoint_contexts(self) -> Any:
        """Give this as ``context_fn`` to torch.utils.checkpoint (use_reentrant=False): the recomputation in the backward
        then runs with the adapters that were active in the forward, whatever is active by then."""
        return self.site.checkpoint_contexts()

    def param_groups(
        self, lr: float, weight_decay: float = 0.0, *, gate_lr: float | None = None, head_lr: float | None = None
    ) -> list[dict[str, Any]]:
        """Groups for ProximalAdamW (or any optimizer, which then ignores the threshold).

        Args:
            lr: learning rate of A and B.
            weight_decay: decay of A, B and the weight matrices of trained modules; gates, biases and norms have none.
            gate_lr: learning rate of the gates; default ``lr``.
            head_lr: learning rate of the fully trained modules; default ``lr``.
        """
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
                    "eps": 1e-6,
                    "threshold": self.config.threshold,
                    "threshold_scaling": self.config.threshold_scaling,
                    "peak_lr": rate,
                    "prox": self.config.prox,
                }
            )
        heads = list({id(p): p for head in self.heads.values() for p in head.parameters()}.values())
        for label, params, decay in (
            ("heads", [p for p in heads if p.dim() >= 2], weight_decay),
            ("heads_no_decay", [p for p in heads if p.dim() < 2], 0.0),
        ):
            if params:
                rate = lr if head_lr is None else head_lr
                groups.append({"name": label, "params": params, "lr": rate, "weight_decay": decay})
        return groups

    def penalty(self) -> torch.Tensor | float:
        """l1 · mean|g| over all gates: the released code's extra term; 0.0 where the config has no l1."""
        l1 = getattr(self.config, "l1", 0.0)
        return l1 * torch.cat([*self.gates]).abs().mean() if l1 else 0.0

    def after_step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Call once behind each optimizer step: counts, and looks for dead ranks every ``look_every`` steps.

        Returns:
            Whether a rank was retired now.
        """
        self._clock.steps += 1
        if not isinstance(self.config, SoRA) or not self.config.patience or self._clock.steps % self.config.look_every:
            return False
        return retirement.look(self, optimizer) > 0

    def watch(self, optimizer: torch.optim.Optimizer, shrink: bool = False) -> Any:
        """Call :meth:`after_step` behind every step of ``optimizer``; returns the hook's handle (``.remove()``).

        Args:
            optimizer: the one that trains this adapter.
            shrink: cut ranks out of parameters and optimizer state as soon as they are retired. Parameters are then
                replaced: only where nothing else (DDP, FSDP, a weight average, your own list) holds them.
        """

        def count(stepped: Any, args: Any, kwargs: Any) -> None:
            if self.after_step(optimizer) and shrink:
                self.shrink(optimizer)

        self._watched = weakref.ref(optimizer)
        return optimizer.register_step_post_hook(count)

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
        gone = retirement.retire_zeros(self, optimizer)
        self.shrink(optimizer)
        return gone

    def rank_table(self) -> list[RankRow]:
        """Ranks and exact parameter counts per module, in the model's order; one device synchronisation."""
        return retirement.rank_table(self)

    def merge(self, reversible: bool = False) -> int:
        """Fold the adapter into the base weights: W ← W + s·B diag(g) A, computed in float64 and rounded once.

        Args:
            reversible: keep a copy of each weight, so that :meth:`unmerge` gives the base back bit for bit.

        Returns:
            Bytes that the kept copies take (0 if not reversible).

        Raises:
            RuntimeError: it is merged already, or a weight is quantised or tied to another module.
        """
        return merging.merge(self, reversible)

    def unmerge(self) -> None:
        """Put the base weights back, bit for bit.

        Raises:
            RuntimeError: not merged, or merged without ``reversible=True``.
        """
        merging.unmerge(self)

    def save(self, folder: str | Path) -> None:
        """Write ``adapter.safetensors`` and ``adapter.json``; :func:`fulgurite.adapters.load_adapter` reads them."""
        from fulgurite.adapters import storage

        storage.save(self, Path(folder))

    def load(self, folder: str | Path) -> None:
        """Load what :meth:`save` wrote, into this adapter of the same shape.

        Raises:
            FileNotFoundError, ValueError: missing or truncated files, other layers, other shapes.
        """
        from fulgurite.adapters import storage

        storage.load(self, Path(folder))

    def export_peft(
        self,
        folder: str | Path,
        *,
        rank_pattern: bool = False,
        base_model: str | None = None,
        task_type: str | None = None,
    ) -> None:
        """Write a folder that stock PEFT (and vLLM) loads: gates folded in, dead ranks gone.

        Args:
            folder: where ``adapter_config.json`` and ``adapter_model.safetensors`` go.
            rank_pattern: False pads every module with zeros to one rank, which every reader understands; True writes each
                module's own rank and leaves modules without any rank out.
            base_model: hub id or path of the base, for ``base_model_name_or_path``.
            task_type: PEFT's task type, such as "SEQ_CLS" or "CAUSAL_LM"; None leaves it open.
        """
        from fulgurite.adapters import peft_export

        peft_export.export(self, Path(folder), rank_pattern, base_model, task_type)

    def frozen_keys(self) -> set[str]:
        """Keys of ``model.state_dict()`` that are frozen base parameters: what an adapter checkpoint leaves out."""
        return {key for key, p in self.model.named_parameters(remove_duplicate=False) if not p.requires_grad}

    def trainable_parameters(self) -> int:
        """Scalars that this adapter and its fully trained modules train, retired ranks not counted."""
        heads = {id(p): p.numel() for head in self.heads.values() for p in head.parameters()}
        factors = [f for branch in self.branches.values() for f in branch.factors() if f is not None]
        return sum(f.numel() for f in factors) + sum(heads.values())

    def detach(self) -> None:
        """Take the adapter off: classes, keys and requires_grad flags are what they were; trained heads stay trained.

        Raises:
            RuntimeError: it is merged; unmerge it first, or keep the merged model and drop the handle.
        """
        site = self.site
        if any(self.name in layer.merged and layer.merged[self.name] is not None for layer in self.layers.values()):
            raise RuntimeError(
                f"Adapter {self.name!r} is merged with a copy of the base; call unmerge() before detach()."
            )
        for layer in self.layers.values():
            take_branch(layer, self.name)
        del site.adapters[self.name]
        site.active = tuple(n for n in site.active if n != self.name)
        if not site.adapters:
            for key, p in self.model.named_parameters():
                p.requires_grad_(site.required_grad.get(key, p.requires_grad))
            site.load_hook.remove()
            del self.model.__dict__["_fulgurite_site"]

    def _watching(self) -> torch.optim.Optimizer | None:
        return None if self._watched is None else self._watched()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_watched": None}

    def __repr__(self) -> str:
        return f"Adapter({self.name!r}, {self.config}, {len(self.layer_names)} layers of {type(self.model).__name__})"

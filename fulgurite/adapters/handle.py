"""The handle that attach() returns: what all adapters have in common. It holds modules and names, never Parameters.

The handles of the methods' rooms derive from it and add how the adapter is trained, merged and stored: LowRankAdapter (LoRA,
SoRA), SparseAdapter (APET, BitFit) and InsertedAdapter (bottlenecks, soft prompts).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from fulgurite.adapters import storage
from fulgurite.adapters.config import AdapterConfig, config_to_dict
from fulgurite.adapters.groups import decayed_groups
from fulgurite.adapters.layers.layer import AdaptedLayer, take_branch
from fulgurite.adapters.layers.low_rank_branch import RankRow
from fulgurite.adapters.layers.own import frozen_keys, own_parameters, own_state
from fulgurite.adapters.layers.site import Site, site_of

__all__ = ["Adapter", "adapters_of"]


class Adapter:
    """Handle of one attached adapter; made by :func:`attach`.

    Attributes:
        model: the module that it is attached to.
        name: its name there.
        config: the configuration that it was made of.
        layer_names: qualified names of the adapted layers.
        head_names: qualified names of the fully trained modules.
        train_patterns: the regexes that chose these.
        hooks: handles (anything with ``remove()``) of what the adapter registered on modules; :meth:`detach` removes them.
    """

    _described_as = ""  # what description() says of each layer, for the error of a folder made for others
    _optional: tuple[str, ...] = ()  # endings of keys that a folder may hold although this adapter does not

    def __init__(
        self,
        model: nn.Module,
        name: str,
        config: AdapterConfig,
        layer_names: list[str],
        head_names: list[str],
        train: tuple[str, ...],
    ) -> None:
        self.model, self.name, self.config = model, name, config
        self.layer_names, self.head_names, self.train_patterns = layer_names, head_names, train
        self.hooks: list[Any] = []
        self._watched: weakref.ref[torch.optim.Optimizer] | None = None
        self._step_hooks: list[Any] = []

    @property
    def site(self) -> Site:
        """What the adapters of the model share."""
        site = site_of(self.model)
        if site is None or site.adapters.get(self.name) is not self:
            raise RuntimeError(f"Adapter {self.name!r} is not attached any more; call attach() again.")
        return site

    @property
    def layers(self) -> dict[str, AdaptedLayer]:
        """Adapted layers by qualified name, in the model's order."""
        return {name: cast(AdaptedLayer, self.model.get_submodule(name)) for name in self.layer_names}

    @property
    def branches(self) -> dict[str, Any]:
        """This adapter's module at each layer, by the layer's qualified name."""
        return {name: layer.branches[self.name] for name, layer in self.layers.items()}

    @property
    def heads(self) -> dict[str, nn.Module]:
        """The fully trained modules, by qualified name."""
        return {name: self.model.get_submodule(name) for name in self.head_names}

    @property
    def gates(self) -> list[nn.Parameter]:
        """The gates of all layers, (r,) each; empty for adapters that have none."""
        return []

    @property
    def live_layers(self) -> list[AdaptedLayer]:
        """Layers whose own weights this adapter writes; empty for adapters that stand beside the weights."""
        return []

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the block the model computes without this adapter: the frozen base, if it is the only one.

        Fully trained modules (``train=``) keep their trained weights.
        """
        if self.merged:
            raise RuntimeError(f"Adapter {self.name!r} is merged into the base weights; unmerge() before disabled().")
        with self.site.using(tuple(n for n in self.site.active if n != self.name)):
            yield

    @contextmanager
    def only(self) -> Iterator[None]:
        """Within the block this adapter is the only active one.

        Raises:
            RuntimeError: another adapter is merged, whose part of the weights cannot be switched off.
        """
        for adapter in adapters_of(self.model):
            if adapter is not self and adapter.merged:
                raise RuntimeError(
                    f"Adapter.only: adapter {adapter.name!r} is merged into the base weights and would take part; call its "
                    "unmerge() first."
                )
        with self.site.using((self.name,)):
            yield

    def checkpoint_contexts(self) -> Any:
        """Give this method as ``context_fn`` to torch.utils.checkpoint (use_reentrant=False).

        The recomputation in the backward then runs with the adapters that were active in the forward, whatever is active by then.
        A model may keep it after :meth:`detach`: then it does nothing.
        """
        site = site_of(self.model)
        return (nullcontext(), nullcontext()) if site is None else site.checkpoint_contexts()

    def param_groups(
        self, lr: float, weight_decay: float = 0.0, *, gate_lr: float | None = None, head_lr: float | None = None
    ) -> list[dict[str, Any]]:
        """Groups for ProximalAdamW (or any optimizer, which then ignores the threshold).

        Args:
            lr: learning rate of A and B, or of APET's δ.
            weight_decay: decay of A, B, δ (which it pulls towards the base) and the weight matrices of trained modules; gates,
                biases and norms are not decayed.
            gate_lr: learning rate of the gates; default ``lr``.
            head_lr: learning rate of the fully trained modules; default ``lr``.
        """
        heads = self._head_parameters().values()
        rate = lr if head_lr is None else head_lr
        return self._own_groups(lr, weight_decay, gate_lr) + decayed_groups("heads", heads, rate, weight_decay)

    @property
    def merged(self) -> bool:
        """Whether it is merged into the base weights."""
        return self.site is not None and any(self.name in layer.merged for layer in self.layers.values())

    @property
    def kind(self) -> str:
        """Name of the method, such as "LoRA": that of the configuration's class."""
        return type(self.config).__name__

    @property
    def can_merge(self) -> bool:
        """Whether :meth:`merge` can fold it into this model's weights."""
        return True

    @property
    def fits_peft(self) -> bool:
        """Whether :meth:`export_peft` has a layout for it."""
        return True

    @property
    def formats(self) -> tuple[str, ...]:
        """The forms in which it can leave: "adapter" (:meth:`save`), "merged" (:meth:`merge`) and "peft" (:meth:`export_peft`)."""
        return ("adapter", *(["merged"] if self.can_merge else []), *(["peft"] if self.fits_peft else []))

    def penalty(self) -> torch.Tensor | float:
        """The term that the configuration adds to the loss; 0.0 where it adds nothing."""
        return 0.0

    def sync(self) -> None:
        """Call after δ was changed by hand (APET): writes base + δ into the weights. Other adapters keep nothing twice."""

    def after_step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Called after each optimizer step, by the hook of :meth:`watch`; returns whether a rank was retired now."""
        return False

    def watch(self, optimizer: torch.optim.Optimizer, shrink: bool = False, retire: bool = True) -> Any:
        """Call :meth:`after_step` after every step of ``optimizer``; returns the hook's handle (``.remove()``).

        Args:
            optimizer: the one that trains this adapter.
            shrink: cut ranks out of parameters and optimizer state as soon as they are retired. This replaces Parameters, so
                give it only where nothing else (DDP, FSDP, a weight average, your own list) holds them.
            retire: move ranks behind the live ones once their gates have been zero for ``patience`` steps. Give False where a
                weight average (AveragedModel, SWA, EMA) runs, which would mix ranks that changed places; :meth:`prune` afterwards.
        """

        def count(stepped: Any, args: Any, kwargs: Any) -> None:
            if retire and self.after_step(optimizer) and shrink:
                self.shrink(optimizer)

        self._watched = weakref.ref(optimizer)
        hook = optimizer.register_step_post_hook(count)
        self._step_hooks.append(hook)
        return hook

    def shrink(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Cut retired ranks out of parameters and optimizer state; does nothing for adapters without ranks."""

    def prune(self, optimizer: torch.optim.Optimizer | None = None) -> int:
        """Retire every rank whose gate is zero, now, and cut it out; returns how many ranks left."""
        raise self._without_ranks("prune")

    def rank_table(self) -> list[RankRow]:
        """Ranks and exact parameter counts per module, in the model's order."""
        raise self._without_ranks("rank_table")

    def merge(self, reversible: bool = False) -> int:
        """Fold the adapter into the base weights.

        Args:
            reversible: keep what :meth:`unmerge` needs to take it out again, bit for bit.

        Returns:
            Bytes that this takes (0 if not reversible).

        Raises:
            RuntimeError: it is merged already, or a weight cannot be merged into.
        """
        raise NotImplementedError

    def unmerge(self) -> None:
        """Undo :meth:`merge`, bit for bit; a RuntimeError if it is not merged, or was merged without ``reversible=True``."""
        raise NotImplementedError

    def save(self, folder: str | Path) -> None:
        """Write ``adapter.safetensors`` and ``adapter.json``; :func:`fulgurite.adapters.load_adapter` reads them."""
        whole = {
            "name": self.name,
            "model": type(self.model).__name__,
            "adapter": config_to_dict(self.config),
            "train": list(self.train_patterns),
            **self.description(),
        }
        storage.write_adapter(Path(folder), whole, {**self.stored_tensors(), **self._head_tensors()})

    def load(self, folder: str | Path) -> None:
        """Load the values that :meth:`save` wrote; this adapter must have the same layers and shapes.

        Raises:
            FileNotFoundError, ValueError: missing or truncated files, other layers, other shapes.
            RuntimeError: it is merged, so that the values would not be computed with.
        """
        if self.merged:
            raise RuntimeError(f"Adapter.load: adapter {self.name!r} is merged; call unmerge() first.")
        folder = Path(folder)
        self.check_description(storage.read_adapter_config(folder), folder)
        tensors = storage.read_tensors(folder)
        own = {**self.stored_tensors(), **self._head_tensors()}
        storage.check_tensors(folder, tensors, own, self._fits, self._optional)
        self.load_tensors(tensors)
        for name, head in self.heads.items():
            head.load_state_dict({**head.state_dict(), **{key: tensors[f"{name}.{key}"] for key in own_state(head)}})

    def export_peft(
        self,
        folder: str | Path,
        *,
        rank_pattern: bool = False,
        base_model: str | None = None,
        task_type: str | None = None,
    ) -> None:
        """Write a folder that stock PEFT loads: LoRA's layout for LoRA and SoRA, SHiRA's for APET.

        Args:
            folder: where ``adapter_config.json`` and ``adapter_model.safetensors`` go.
            rank_pattern: False pads every module with zeros to one rank, which every reader understands; True writes each
                module's own rank and leaves modules without any rank out.
            base_model: hub id or path of the base, for ``base_model_name_or_path``.
            task_type: PEFT's task type, such as "SEQ_CLS" or "CAUSAL_LM"; None leaves it open.
        """
        raise NotImplementedError

    def trainable_parameters(self) -> int:
        """Scalars that this adapter and its fully trained modules train, retired ranks not counted."""
        return self._own_parameters() + sum(p.numel() for p in self._head_parameters().values())

    def low_rank_factors(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]] | None:
        """By layer name A (r, K), with scale and gates in it, and B (N, r); None where the adapter is something else."""
        return None

    def summary(self) -> list[tuple[str, str]]:
        """(what, figure) for people: what is adapted and what it costs."""
        raise NotImplementedError

    def trained_keys(self) -> list[str]:
        """Keys of ``model.state_dict()`` without which a checkpoint is not this adapter's."""
        heads = [f"{name}.{key}" for name, head in self.heads.items() for key in own_parameters(head)]
        return [f"{name}.branches.{self.name}.{key}".lstrip(".") for name, key in self._branch_keys()] + heads

    def frozen_keys(self) -> set[str]:
        """Keys of ``model.state_dict()`` that are frozen, scales of packed weights too: what an adapter checkpoint leaves out."""
        return frozen_keys(self.model)

    def detach(self) -> None:
        """Take the adapter off: classes, keys and requires_grad flags are what they were before; trained heads stay trained.

        Raises:
            RuntimeError: it is merged with ``reversible=True``; unmerge it first. After a merge for good the model stays merged.
        """
        site = self.site
        if any(layer.merged.get(self.name) is not None for layer in self.layers.values()):
            raise RuntimeError(f"Adapter {self.name!r} is merged with a copy of the base; unmerge() before detach().")
        for hook in (*self.hooks, *self._step_hooks):
            hook.remove()
        self._take_off()
        del site.adapters[self.name]
        site.active = tuple(n for n in site.active if n != self.name)
        if not site.adapters:
            site.close(self.model)

    def prepare_load(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Call with a checkpoint's state dict before its keys are compared with the model's; APET compares positions here.

        Args:
            state_dict: of the model or a module around it.
            prefix: of the model's keys in it.
        """

    def before_loading(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Called when a state dict is about to be loaded; the arguments are those of :meth:`prepare_load`."""

    def on_attached(self, check_forward: bool) -> None:
        """Called once, when the adapter stands in its model and is active.

        Args:
            check_forward: of :func:`attach`.
        """

    def settle(self) -> None:
        """Called when the active adapters have changed."""

    def description(self) -> dict[str, Any]:
        """What ``adapter.json`` says about the layers, beside the configuration."""
        raise NotImplementedError

    def stored_tensors(self) -> dict[str, torch.Tensor]:
        """What ``adapter.safetensors`` holds, without the trained modules: the branches' state by layer name."""
        return {f"{name}.{key}": value for name, b in self.branches.items() for key, value in b.state_dict().items()}

    def check_description(self, description: dict[str, Any], folder: Path) -> None:
        """Raise a ValueError if the folder was made for other layers."""
        ((what, mine),) = self.description().items()
        storage.check_layers(folder, mine, description.get(what, {}), self._described_as)

    def check_config(self, stored: Mapping[str, Any], where: str) -> None:
        """Raise a ValueError if the values of a configuration, stored as JSON ``where``, would compute something else here."""

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take the values that :meth:`stored_tensors` gave."""
        storage.load_branches(self.branches, tensors)

    def _head_tensors(self) -> dict[str, torch.Tensor]:
        return {f"{name}.{key}": v for name, head in self.heads.items() for key, v in own_state(head).items()}

    def _head_parameters(self) -> dict[int, nn.Parameter]:
        return {id(p): p for head in self.heads.values() for p in own_parameters(head).values()}

    def _fits(self, key: str, saved: torch.Size, own: torch.Size) -> bool:
        """Whether a saved tensor of this shape can be loaded in the place of its own."""
        return saved == own

    def _own_groups(self, lr: float, weight_decay: float, gate_lr: float | None) -> list[dict[str, Any]]:
        raise NotImplementedError

    def _own_parameters(self) -> int:
        raise NotImplementedError

    def _branch_keys(self) -> list[tuple[str, str]]:
        """(layer, parameter of its branch) for one parameter at least of every branch."""
        raise NotImplementedError

    def _take_off(self) -> None:
        """Take the branches off; part of :meth:`detach`."""
        for layer in self.layers.values():
            take_branch(layer, self.name)

    def _without_ranks(self, call: str) -> RuntimeError:
        words = "this is for LoRA and SoRA. See summary() and trainable_parameters()."
        return RuntimeError(f"Adapter.{call}: {self.kind} has no ranks; {words}")

    def _watching(self) -> torch.optim.Optimizer | None:
        return None if self._watched is None else self._watched()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_watched": None, "_step_hooks": []}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.config}, {len(self.layer_names)} layers of {type(self.model).__name__})"


def adapters_of(model: nn.Module) -> list[Adapter]:
    """The adapters attached to this very module, in the order of attaching."""
    site = site_of(model)
    return [] if site is None else [cast(Adapter, adapter) for adapter in site.adapters.values()]

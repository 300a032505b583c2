"""Handle of APET (arXiv 2306.02320): n trained scalars δ at any positions, live in the weights, exact to undo.

W at the positions holds base + δ, rounded once to W's dtype; δ and its optimizer state are float32. Every optimizer of torch
(fused, foreach and custom ones) calls a hook after its step, which writes the new values; after changing δ in any other way call
:meth:`SparseAdapter.sync`. A model's ``state_dict()`` holds the live weights (whoever ignores the ``branches`` keys has the tuned
model), δ, and the positions or a hash of them.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from fulgurite.adapters.config import APET
from fulgurite.adapters.handle import Adapter
from fulgurite.adapters.layers.layer import AdaptedLayer, put_branch, release, take_branch, tie
from fulgurite.adapters.layers.sparse_branch import SparseBranch
from fulgurite.adapters.peft_folder import write_folder
from fulgurite.adapters.sparse import storage
from fulgurite.adapters.sparse.eligible import Eligible
from fulgurite.adapters.sparse.loading import FirstLook, other_positions, read_base
from fulgurite.adapters.sparse.masks import positions_of
from fulgurite.adapters.sparse.shira_export import misfits, shira_layout

__all__ = ["SparseAdapter"]

_log = logging.getLogger(__name__)


class SparseAdapter(Adapter):
    """Handle of APET and BitFit; see :class:`fulgurite.adapters.Adapter`.

    ``merge()`` only stops training, because the weights hold base + δ already; after ``unmerge()`` training goes on. ``disabled()``
    and ``detach()`` put the n base values back, bit for bit. A backward finds the weights of its forward, also inside
    ``disabled()`` and with activation checkpointing. There are two exceptions, in which the adapters of the forward must still be
    active in the backward: under torch.compile, and for weights that code reads without calling their layer.
    """

    config: APET
    _optional = (".index",)  # positions, where these were stored and here come from the seed

    def __init__(
        self,
        model: nn.Module,
        name: str,
        config: APET,
        tensors: list[Eligible],
        head_names: list[str],
        train: tuple[str, ...],
        stores_positions: bool,
        first: Mapping[str, torch.Tensor],
    ) -> None:
        super().__init__(model, name, config, [], head_names, train)
        self.tensors, self.stores_positions = tensors, stores_positions
        self.tied_names: list[str] = []
        self._first = first
        self._modules: list[AdaptedLayer] = []
        self._complained = False
        self._first_look: FirstLook | None = None
        self._listen()

    @property
    def eligible(self) -> int:
        """Number of scalars that the positions were chosen from."""
        return sum(tensor.numel for tensor in self.tensors)

    @property
    def branches(self) -> dict[str, SparseBranch]:
        """This adapter's branch of each layer that has trained scalars, by the layer's qualified name."""
        return {name: cast(SparseBranch, layer.branches[self.name]) for name, layer in self.layers.items()}

    @property
    def live_layers(self) -> list[AdaptedLayer]:
        """The layers that have trained scalars."""
        return self._modules

    @property
    def positions(self) -> dict[str, torch.Tensor]:
        """Flat positions per parameter name, sorted int64."""
        return {f"{name}.{key}" if name else key: index for name, key, index in self._tensors("index")}

    @property
    def deltas(self) -> dict[str, nn.Parameter]:
        """δ per parameter name, (n,) each."""
        return {
            f"{name}.{key}" if name else key: branch.delta(key)
            for name, branch in self.branches.items()
            for key in branch.index
        }

    @property
    def tied_layers(self) -> list[AdaptedLayer]:
        """Layers whose tensor is tied to one that another layer owns here."""
        return [cast(AdaptedLayer, self.model.get_submodule(name)) for name in self.tied_names]

    def on_attached(self, check_forward: bool) -> None:
        """Train the scalars that were chosen; there is no forward to check, because δ lies in the weights."""
        self.place(self._first)
        self._first = {}

    def place(self, positions: Mapping[str, torch.Tensor]) -> None:
        """Train the scalars at these positions from here on. δ is new and zero, so the optimizer has to be a new one as well.

        Args:
            positions: per eligible parameter, flat and sorted, int64.
        """
        site = self.site
        self._take_branches()
        chosen = [tensor for tensor in self.tensors if tensor.name in positions]
        self.layer_names = list(dict.fromkeys(tensor.layer for tensor in chosen))
        self.tied_names = [layer for tensor in chosen for layer, _ in tensor.tied]
        with site.using(()):  # base values are those under every other adapter
            for name in self.layer_names:
                layer = self.model.get_submodule(name)
                mine = [tensor for tensor in chosen if tensor.layer == name]
                parameters = {tensor.key: cast(nn.Parameter, layer._parameters[tensor.key]) for tensor in mine}
                index = {tensor.key: positions[tensor.name] for tensor in mine}
                owner = put_branch(layer, self.name, SparseBranch(name, parameters, index, self.stores_positions), site)
                for tensor in mine:
                    for other, key in tensor.tied:
                        tie(self.model.get_submodule(other), key, owner, tensor.key, site)
        self._modules = list(self.layers.values())
        self.settle()
        self._first_look = FirstLook(self.name, self.model, self._modules)

    def look(self) -> None:
        """Read the base values once more, if nothing has been computed or written since the scalars were placed."""
        if self._first_look is not None:
            self._first_look.take()

    def sync(self) -> None:
        """Write base + δ into the weights; the optimizer hook does it after every step."""
        self.look()
        for layer in self._modules:
            layer.write(layer.wanted())

    def settle(self) -> None:
        """Bring the weights in line with the active adapters."""
        self.look()
        for layer in self._modules:
            if layer.live != layer.wanted():
                layer.write(layer.wanted())

    def merge(self, reversible: bool = False) -> int:
        """Leave δ in the weights and stop training it; the weights do not change.

        Args:
            reversible: keep the base values (n of them), so that :meth:`unmerge` is possible.

        Returns:
            Bytes of the base values (0 if not reversible).

        Raises:
            RuntimeError: it is merged already, or switched off.
        """
        if any(self.name in layer.merged for layer in self._modules):
            raise RuntimeError(f"merge: adapter {self.name!r} is merged already; call unmerge() first.")
        self.sync()
        kept = 0
        for layer, branch in zip(self._modules, self.branches.values(), strict=True):
            base = torch.cat([value.reshape(-1) for value in branch.base.values()])
            layer.merged[self.name] = base if reversible else None
            kept += base.numel() * base.element_size() if reversible else 0
        self.settle()
        return kept

    def unmerge(self) -> None:
        """Go on training δ; the base itself comes back, bit for bit, with ``disabled()`` or ``detach()``.

        Raises:
            RuntimeError: not merged, or merged without ``reversible=True``.
        """
        for name, layer in self.layers.items():
            if self.name not in layer.merged:
                raise RuntimeError(f"unmerge: adapter {self.name!r} is not merged (at {name}).")
            if layer.merged[self.name] is None:
                raise RuntimeError(
                    f"unmerge: adapter {self.name!r} was merged without reversible=True: the base values are given up. Load "
                    "the base again."
                )
        for layer in self._modules:
            del layer.merged[self.name]
        self.settle()

    def export_peft(
        self,
        folder: str | Path,
        *,
        rank_pattern: bool = False,
        base_model: str | None = None,
        task_type: str | None = None,
    ) -> None:
        """Write a folder in PEFT's SHiRA layout; see :meth:`export_shira`.

        Args:
            folder: where ``adapter_config.json`` and ``adapter_model.safetensors`` go.
            rank_pattern: has no meaning here.
            base_model: hub id or path of the base, for ``base_model_name_or_path``.
            task_type: PEFT's task type, such as "SEQ_CLS" or "CAUSAL_LM"; None leaves it open.
        """
        self.export_shira(folder, base_model=base_model, task_type=task_type)

    @property
    def fits_peft(self) -> bool:
        """Whether every trained scalar lies in the weight of a linear layer of its own, as SHiRA's layout demands."""
        return not misfits(self.layers, self.branches, self.tied_layers)

    def export_shira(self, folder: str | Path, *, base_model: str | None = None, task_type: str | None = None) -> None:
        """Write a folder that stock PEFT loads as SHiRA, where every trained scalar lies in the weight of a linear layer.

        Args:
            folder: where ``adapter_config.json`` and ``adapter_model.safetensors`` go.
            base_model: hub id or path of the base, for ``base_model_name_or_path``.
            task_type: PEFT's task type; None leaves it open.

        Raises:
            ValueError: scalars outside of linear layers' weights, named.
        """
        layers, layout = shira_layout(self.layers, self.branches, self.tied_layers)
        layout["random_seed"] = self.config.seed
        write_folder(Path(folder), self.model, layers, self.heads, layout, base_model, task_type)

    def summary(self) -> list[tuple[str, str]]:
        """(what, figure) for people: scalars, tensors and how they were chosen."""
        deltas = self.deltas
        count = sum(delta.numel() for delta in deltas.values())
        share = 100 * count / max(self.eligible, 1)
        return [
            ("trained scalars", f"{count:,} of {self.eligible:,} eligible ({share:.3g} %)"),
            ("in tensors", f"{len(deltas)} of {len(self.layer_names)} modules, selection {self.config.selection}"),
        ]

    def description(self) -> dict[str, Any]:
        """See :mod:`fulgurite.adapters.sparse.storage`."""
        return storage.describe(self.branches, self.eligible)

    def check_description(self, description: dict[str, Any], folder: Path) -> None:
        """Raise a ValueError if the folder was made for other tensors or other positions."""
        storage.check(self.model, self.branches, self.eligible, description, folder)

    def stored_tensors(self) -> dict[str, torch.Tensor]:
        """δ, and positions where they are stored, by parameter name."""
        return storage.tensors(self.branches)

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take the values that :meth:`stored_tensors` gave, and write them into the weights."""
        for name, delta in self.deltas.items():
            delta.data.copy_(tensors[f"{name}.delta"])
        self.sync()

    def prepare_load(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Compare the positions that a state dict's values belong to; take them over where only data could give them again.

        Args:
            state_dict: of the model or a module around it.
            prefix: of the model's keys in it.

        Raises:
            ValueError: other positions, although the same configuration should give the same.
        """
        found = other_positions(self.name, self.config, self.branches, state_dict, prefix)
        if found is not None:
            self.place(positions_of(found, self.tensors))

    def before_loading(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Compare positions, and learn the base values from weights that come with the state dict."""
        self.look()
        self.prepare_load(state_dict, prefix)
        self.look()  # positions that came with the checkpoint begin with a look of their own
        read_base(self.name, self.layers, state_dict, prefix)

    def _own_groups(self, lr: float, weight_decay: float, gate_lr: float | None) -> list[dict[str, Any]]:
        return [{"name": "sparse", "params": list(self.deltas.values()), "lr": lr, "weight_decay": weight_decay}]

    def _own_parameters(self) -> int:
        return sum(delta.numel() for delta in self.deltas.values())

    def _branch_keys(self) -> list[tuple[str, str]]:
        return [(name, f"delta_{key}") for name, key, _ in self._tensors("index")]

    def _tensors(self, attribute: str) -> list[tuple[str, str, torch.Tensor]]:
        return [
            (name, key, value)
            for name, branch in self.branches.items()
            for key, value in getattr(branch, attribute).items()
        ]

    def _take_off(self) -> None:
        self._take_branches()
        self._hook.remove()

    def _take_branches(self) -> None:
        site, tied = self.site, self.tied_layers
        before = site.active
        if self.merged:
            self._stay_for_good()
        else:
            site.activate(tuple(n for n in site.active if n != self.name))
        if self._first_look is not None:
            self._first_look.close()
        for layer in self._modules:
            layer.live = tuple(n for n in layer.live if n != self.name)
            take_branch(layer, self.name)
        for layer in tied:
            if isinstance(layer, AdaptedLayer):
                release(layer)
        site.active, self._modules = before, []

    def _stay_for_good(self) -> None:
        """Merged and about to be detached: base + δ becomes the base of the other sparse adapters."""
        for layer in self._modules:
            layer.write((self.name,))
            others = [branch for name, branch in layer.branches.items() if name != self.name]
            for branch in others:
                if isinstance(branch, SparseBranch):
                    branch.rebase(layer._parameters)
            layer.live = ()
            layer.write(tuple(name for name in layer.wanted() if name != self.name))

    def _listen(self) -> None:
        """Hear of the steps of every optimizer, without keeping the model alive."""
        me = weakref.ref(self)

        def stepped(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            adapter = me()
            if adapter is not None and adapter._is_trained_by(optimizer):
                adapter._complain_once()
                adapter.sync()

        self._hook = register_optimizer_step_post_hook(stepped)
        weakref.finalize(self, self._hook.remove)

    def _complain_once(self) -> None:
        """After the first step: name trained scalars that nothing computes a gradient for."""
        if self._complained:
            return
        self._complained = True
        idle = [(name, delta.numel()) for name, delta in self.deltas.items() if delta.grad is None]
        if idle:
            _log.warning(
                "APET: %d tensors (%s trained scalars) got no gradient in the first step, the first is %s: this model's forward or "
                "loss does not use them. Leave them out by targets=.",
                len(idle), f"{sum(n for _, n in idle):,}", idle[0][0],
            )  # fmt: skip

    def _is_trained_by(self, optimizer: torch.optim.Optimizer) -> bool:
        mine = {id(p) for layer in self._modules for p in layer.branches[self.name]._parameters.values()}
        return any(id(p) in mine for group in optimizer.param_groups for p in group["params"])

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_hook": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._listen()

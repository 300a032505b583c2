"""What a bottleneck adapter and a soft prompt do in a model: modules beside layers, at work through forward hooks.

Both live in ``layer.branches[name]``, so that keys, checkpoints, saving and freezing are those of every adapter; their work is done
by hooks, which :meth:`InsertedAdapter.detach` removes. A soft prompt lengthens what goes into the base model by dummy tokens, lays
its vectors over their embeddings, and takes their positions out of the last hidden states again: everything behind, pooling and
heads, sees the tokens that were given. With a cache only the first call is lengthened.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import nn

from fulgurite.adapters.config import Bottleneck, SoftPrompt
from fulgurite.adapters.handle import Adapter
from fulgurite.adapters.inserted.bottleneck import BottleneckBranch, put_behind
from fulgurite.adapters.inserted.places import bottleneck_layers, embedding_of
from fulgurite.adapters.inserted.soft_prompt import PromptBranch, host_of, lay_over, lengthen, shorten
from fulgurite.adapters.layers.layer import features, put_branch
from fulgurite.adapters.layers.site import Site

__all__ = ["InsertedAdapter", "inserted_layers", "put_inserted"]


class InsertedAdapter(Adapter):
    """Handle of :class:`Bottleneck` and :class:`SoftPrompt`; see :class:`fulgurite.adapters.Adapter`.

    Neither is a change of weights: they cannot be merged, and other tools have no layout for them.
    """

    config: Bottleneck | SoftPrompt
    _described_as = "shape of each tensor"

    def __init__(
        self,
        model: nn.Module,
        name: str,
        config: Bottleneck | SoftPrompt,
        layer_names: list[str],
        head_names: list[str],
        train: tuple[str, ...],
        hooks: list[Any],
    ) -> None:
        super().__init__(model, name, config, layer_names, head_names, train)
        self._hooks = hooks

    def merge(self, reversible: bool = False) -> int:
        """Refused.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            f"merge: {type(self.config).__name__} is no change of the weights and cannot be folded into them; export with "
            "--format adapter, or keep the adapter attached."
        )

    def export_peft(
        self,
        folder: str | Path,
        *,
        rank_pattern: bool = False,
        base_model: str | None = None,
        task_type: str | None = None,
    ) -> None:
        """Refused.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            f"export_peft: {type(self.config).__name__} has no layout that PEFT loads with the same outputs; save() writes ours."
        )

    def summary(self) -> list[tuple[str, str]]:
        """(what, figure) for people."""
        return [("inserted modules", str(len(self.layer_names))), ("parameters", f"{self._own_parameters():,}")]

    def description(self) -> dict[str, Any]:
        """{"inserted": {layer name: {tensor: shape}}}."""
        return {
            "inserted": {
                name: {key: list(value.shape) for key, value in branch.state_dict().items()}
                for name, branch in self.branches.items()
            }
        }

    def _own_groups(self, lr: float, weight_decay: float, gate_lr: float | None) -> list[dict[str, Any]]:
        params = [p for branch in self.branches.values() for p in branch.parameters()]
        groups = [
            ("inserted", [p for p in params if p.dim() >= 2], weight_decay),
            ("inserted_no_decay", [p for p in params if p.dim() < 2], 0.0),
        ]
        return [{"name": n, "params": some, "lr": lr, "weight_decay": decay} for n, some, decay in groups if some]

    def _own_parameters(self) -> int:
        return sum(p.numel() for branch in self.branches.values() for p in branch.parameters())

    def _branch_keys(self) -> list[tuple[str, str]]:
        return [(name, next(iter(branch.state_dict()))) for name, branch in self.branches.items()]

    def _take_off(self) -> None:
        for hook in self._hooks:
            hook.remove()
        super()._take_off()


def inserted_layers(model: nn.Module, config: Bottleneck | SoftPrompt, train: tuple[str, ...]) -> dict[str, nn.Module]:
    """The layers that carry the modules: those that bottlenecks follow, or the input embedding.

    Raises:
        ValueError: none was found.
    """
    if isinstance(config, Bottleneck):
        return bottleneck_layers(model, config, train)
    embedding = embedding_of(host_of(model)[0])  # an encoder may have one of its own, tied to the model's
    return {next(name for name, module in model.named_modules() if module is embedding): embedding}


def put_inserted(
    model: nn.Module,
    config: Bottleneck | SoftPrompt,
    name: str,
    site: Site,
    layers: dict[str, nn.Module],
    heads: list[str],
    train: tuple[str, ...],
) -> InsertedAdapter:
    """Put the modules beside their layers and the hooks to work; the site's flags are set already."""
    hooks: list[Any] = []
    if isinstance(config, Bottleneck):
        for layer in layers.values():
            device = next(layer.parameters()).device
            branch: nn.Module = BottleneckBranch(features(layer)[1], config.width, device)
            put_branch(layer, name, branch, site)
            hooks.append(layer.register_forward_hook(partial(put_behind, branch, name)))
    else:
        (embedding,) = layers.values()
        host, at = host_of(model)
        branch = PromptBranch(cast(nn.Embedding, embedding), config, at)
        put_branch(embedding, name, branch, site)
        hooks.append(host.register_forward_pre_hook(partial(lengthen, branch, site, name), with_kwargs=True))
        hooks.append(embedding.register_forward_hook(partial(lay_over, branch)))
        hooks.append(host.register_forward_hook(partial(shorten, branch), always_call=True))
    return InsertedAdapter(model, name, config, list(layers), heads, train, hooks)

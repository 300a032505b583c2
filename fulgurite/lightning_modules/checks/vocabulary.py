"""``resize_embeddings``: a run whose tokenizer has more tokens than its base has rows, from the base to the checkpoint and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fulgurite.models.growing import grow_embeddings, train_new_rows_only
from fulgurite.models.sizes import tokens_needed, vocabulary_of

__all__ = ["GrownVocabulary"]

_MODES = ("new", "all")
_KEY = "grown_vocabulary"  # in a checkpoint


class GrownVocabulary:
    """The rows that a run adds to its base's token embedding.

    Args:
        owner: class name of the module, for messages.
        mode: "new": the old rows stay what they are; "all": the whole embedding is trained; None: nothing grows.

    Raises:
        ValueError: another mode.
    """

    def __init__(self, owner: str, mode: str | None) -> None:
        if mode is not None and mode not in _MODES:
            raise ValueError(
                f"{owner}: resize_embeddings={mode!r}; allowed are {', '.join(map(repr, _MODES))}, or none."
            )
        self.owner, self.mode = owner, mode
        self.size: int | None = None
        self.tokenizer: str | None = None
        self.grown: dict[str, int] = {}
        self._known = False

    @property
    def waiting(self) -> bool:
        """Whether data or a checkpoint still has to say how many tokens there are."""
        return self.mode is not None and not self._known

    def grow(self, model: nn.Module, data: Any) -> tuple[str, ...]:
        """Give the base its new rows; the names of the modules that are trained because of it.

        Args:
            model: the base.
            data: the datamodule, whose tokenizer says how many rows are needed; or None, after :meth:`read`.
        """
        load, known = getattr(data, "load_tokenizer", None), vocabulary_of(model)
        if self.mode is None or known is None:
            return ()
        if callable(load):
            tokenizer = load()
            needed = tokens_needed(tokenizer, known)
            if needed > known:
                self.size, self.tokenizer = needed, str(tokenizer.name_or_path)
        self._known = True
        if self.size is None or self.size <= known:
            return ()
        self.grown = grow_embeddings(model, self.size)
        if self.mode == "new":
            train_new_rows_only(model, self.grown)
        return tuple(self.grown)

    def groups(self, network: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The optimizer's groups with the rows in one without weight decay, which would move the old rows too.

        Args:
            network: that grew.
            groups: with its parameters.
        """
        if self.mode != "new" or not self.grown:
            return groups
        rows = [network.get_submodule(name).weight for name in self.grown]
        held = {id(weight) for weight in rows}
        rate = next(group["lr"] for group in groups if any(id(p) in held for p in group["params"]))
        others = [{**group, "params": [p for p in group["params"] if id(p) not in held]} for group in groups]
        new = {"name": "new_tokens", "params": rows, "lr": rate, "weight_decay": 0.0}
        return [*(group for group in others if group["params"]), new]

    def write(self, network: nn.Module, checkpoint: dict[str, Any], adapted: bool) -> None:
        """Put into a checkpoint what :meth:`read` needs; of "new" rows beside an adapter it holds those rows and not the old ones.

        Args:
            network: that grew.
            checkpoint: about to be saved.
            adapted: whether the rest of the network is frozen.
        """
        if not self.grown:
            return
        checkpoint[_KEY] = {"size": self.size, "tokenizer": self.tokenizer}
        if self.mode == "new" and adapted:
            for key, rows in self._keys(network).items():
                if key in checkpoint["state_dict"]:
                    checkpoint["state_dict"][key] = checkpoint["state_dict"][key][rows:].clone()

    def read(self, checkpoint: dict[str, Any]) -> None:
        """Take from a checkpoint how many tokens its network has, before the network is built.

        Raises:
            ValueError: the run's tokenizer has another number.
        """
        stored = checkpoint.get(_KEY) or {}
        size = stored.get("size")
        if self._known and size != self.size:
            mine, theirs = (f"{n} tokens" if n else "no tokens beyond the base's" for n in (self.size, size))
            raise ValueError(
                f"{self.owner}: the checkpoint was trained with {theirs}, and the tokenizer here has {mine}; give the tokenizer of "
                f"that run ({stored.get('tokenizer') or 'the backbone'}, as --data.tokenizer)."
            )
        self.size, self.tokenizer, self._known = size, stored.get("tokenizer"), True

    def complete(self, network: nn.Module, state: dict[str, torch.Tensor]) -> None:
        """Put the base's old rows before new ones that were saved without them.

        Args:
            network: that grew.
            state: the checkpoint's tensors.
        """
        weights = dict(network.named_parameters(remove_duplicate=False))
        for key, rows in self._keys(network).items():
            whole = weights[key.removeprefix("network.")].detach()
            if key in state and len(state[key]) == len(whole) - rows:
                state[key] = torch.cat([whole[:rows].to(state[key].device), state[key].to(whole.dtype)])

    def _keys(self, network: nn.Module) -> dict[str, int]:
        """Keys of a checkpoint under which the rows stand (a tied head's too), with the number of old rows."""
        rows = {id(network.get_submodule(name).weight): known for name, known in self.grown.items()}
        named = network.named_parameters(remove_duplicate=False)
        return {f"network.{key}": rows[id(p)] for key, p in named if id(p) in rows}

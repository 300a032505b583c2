"""The network of UltraFuser (arXiv 2403.08281): specialists side by side, and the gate that scores their hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn

from fulgurite.models.heads import OutputHead, find_decoder, usable_head
from fulgurite.models.specialists import Specialist

__all__ = ["FusedNetwork"]


class FusedNetwork(nn.Module):
    """Specialists and gate.

    Args:
        specialists: models with or without adapters; a model that several share is held once.
        names: of the specialists, for messages.
        gate_hidden: width of the gate's hidden layer.

    Attributes:
        gates: one network H -> gate_hidden -> 1 for all specialists, or one for each where their hidden sizes differ.
    """

    def __init__(self, specialists: Sequence[Specialist], names: Sequence[str], gate_hidden: int = 512) -> None:
        super().__init__()
        unique = list({id(s.model): s.model for s in specialists}.values())
        self.models = nn.ModuleList(unique)
        self.places = [next(i for i, m in enumerate(unique) if m is s.model) for s in specialists]
        self.adapters = [s.adapter for s in specialists]
        self.names = list(names)
        widths = [_width(s.model) for s in specialists]
        gates = widths[:1] if len(set(widths)) == 1 else widths
        self.gates = nn.ModuleList(
            nn.Sequential(nn.Linear(width, gate_hidden), nn.ReLU(), nn.Linear(gate_hidden, 1)) for width in gates
        )
        self._proved: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()

    def specialist(self, place: int) -> nn.Module:
        """The model of one specialist; use it within :meth:`only`."""
        return self.models[self.places[place]]

    def only(self, place: int) -> AbstractContextManager[None]:
        """Within the block that specialist's adapter is the only active one."""
        adapter = self.adapters[place]
        return nullcontext() if adapter is None else adapter.only()

    def hidden(self, ids: Sequence[torch.Tensor], masks: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Last hidden states of each specialist, (B, T_e, H_e), for token ids and masks (B, T_e) of its own."""
        found = []
        for place, (tokens, mask) in enumerate(zip(ids, masks, strict=True)):
            inputs: dict[str, Any] = {"input_ids": tokens, "attention_mask": mask, "use_cache": False}
            with self.only(place):
                found.append(find_decoder(self.specialist(place))(**inputs).last_hidden_state)
        return found

    def heads(self) -> list[OutputHead]:
        """The output head of each specialist.

        Raises:
            ValueError: a head that is not a linear layer of the hidden states.
        """
        found = []
        for place, name in enumerate(self.names):
            with self.only(place):
                head = usable_head(self.specialist(place), self._proved)
            if head is None:
                raise ValueError(
                    f"FusedNetwork: the output head of {name!r} ({type(self.specialist(place)).__name__}) is not a linear layer of "
                    "its last hidden states, so that it cannot be blended with others; take another specialist"
                )
            found.append(head)
        return found

    def scores(self, states: Sequence[torch.Tensor]) -> torch.Tensor:
        """The gate's scores before the softmax, (…, E) float32, of hidden states (…, H_e)."""
        dtype = next(self.gates.parameters()).dtype
        with torch.autocast(states[0].device.type, enabled=False):
            each = [self.gates[min(e, len(self.gates) - 1)](state.to(dtype)) for e, state in enumerate(states)]
        return torch.cat(each, -1)


def _width(model: nn.Module) -> int:
    embeddings = cast(Any, model).get_output_embeddings()
    if embeddings is None or getattr(embeddings, "weight", None) is None:
        raise ValueError(f"FusedNetwork: {type(model).__name__} has no output head; give language models")
    return int(embeddings.weight.shape[1])

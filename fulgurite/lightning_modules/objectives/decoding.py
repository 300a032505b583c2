"""Running networks on padded and packed batches, and remembering from batch to batch what was prepared and proved of each.

Every objective over tokens needs two things: the keyword arguments with which the network sees a batch, and the states that go
into the output head together with the head's tensors (or the network's own logits, if the head cannot be taken apart).
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import nn

from fulgurite.lightning_modules.objectives.step import Batch, forward_inputs
from fulgurite.models import (
    OutputHead,
    enable_packing,
    enable_trees,
    find_decoder,
    packed_inputs,
    structure_of,
    usable_head,
)
from fulgurite.models.routing import asks_for_balance, balanced_states

__all__ = ["Decoding"]


class Decoding:
    """Runs networks on padded and packed batches; remembers, without keeping them alive, what was proved of each.

    A packed batch carries ``cu_seq_lens``, one of trees also ``parents``. The first such batch asks
    :func:`fulgurite.models.enable_packing` (or ``enable_trees``) whether the architecture keeps its rows apart.
    """

    def __init__(self) -> None:
        self._proved: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
        self._packs: WeakSet[nn.Module] = WeakSet()
        self._grows: WeakSet[nn.Module] = WeakSet()

    def __getstate__(self) -> dict[str, Any]:
        # What was proved of a network is proved again in another process: weak references do not travel.
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def inputs(self, network: nn.Module, batch: Batch) -> dict[str, Any]:
        """The keyword arguments with which the network, or its decoder, sees a batch."""
        if "cu_seq_lens" not in batch:
            return {**forward_inputs(batch), "use_cache": False}
        # Rows of their own are trees without parents, which attention by segment is enough for.
        segments = structure_of(batch)
        if segments.parents is not None and network not in self._grows:
            enable_trees(network)
            self._grows.add(network)
        elif network not in self._packs:
            enable_packing(network)
        self._packs.add(network)
        return packed_inputs(network, {**batch, "segments": segments})

    def states(self, network: nn.Module, inputs: dict[str, Any]) -> tuple[torch.Tensor, OutputHead | None]:
        """Last hidden states (B, T, H) and the head that they go into, or logits (B, T, V) and None."""
        head = usable_head(network, self._proved)
        if head is None:
            return network(**inputs).logits, None
        return find_decoder(network)(**inputs).last_hidden_state, head

    def balanced(
        self, network: nn.Module, inputs: dict[str, Any], batch: Batch
    ) -> tuple[torch.Tensor, OutputHead | None, torch.Tensor | float]:
        """What :meth:`states` gives, and the weighted auxiliary loss of a mixture of experts: () float32, 0.0 if not asked for.

        Args:
            network: a language model.
            inputs: of :meth:`inputs`.
            batch: that they were made of.
        """
        if not asks_for_balance(network) or getattr(network.config, "is_encoder_decoder", False):
            return *self.states(network, inputs), 0.0
        real = _real_tokens(batch)
        head = usable_head(network, self._proved)
        states, balance = balanced_states(network, inputs, real, logits=head is None)
        return states, head, balance


def _real_tokens(batch: Batch) -> torch.Tensor | None:
    """(B, T), 1 for tokens that are not padding; None: all are."""
    edges = batch.get("cu_seq_lens")
    if edges is None:
        return batch.get("attention_mask")
    ids, start = batch["input_ids"], edges[-2].long()
    place = torch.arange(ids.shape[1], device=ids.device)[None]
    # What rounds a pack's length up is its last segment: one token again and again, without a label.
    behind = place >= start
    padding = ((ids == ids[:, -1:]) & (batch["labels"] == -100) | ~behind).all()
    return (~(behind & padding)).long()

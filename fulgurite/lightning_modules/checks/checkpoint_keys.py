"""A checkpoint's tensors must be those of the network that takes them: nothing missing, nothing of another adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fulgurite.adapters import Adapter

__all__ = ["check_keys"]

_NETWORK = "network."


def check_keys(
    owner: str,
    network: nn.Module,
    adapter: Adapter | None,
    state: Mapping[str, torch.Tensor],
    made_of: str,
    stored: Mapping[str, Any] | None = None,
) -> None:
    """Refuse a checkpoint that does not hold everything that is trained, or that holds another adapter's tensors.

    Args:
        owner: class name of the module that loads, for the message.
        network: its network.
        adapter: in the network, or None.
        state: the checkpoint's tensors; the network's keys begin with ``network.``.
        made_of: adapter and backbone in words, for the message.
        stored: the configuration of the adapter that the checkpoint was trained with, if it says so.

    Raises:
        ValueError: missing or foreign tensors, or an adapter that would compute something else with them.
    """
    if adapter is not None and stored is not None:
        adapter.check_config(stored, "the checkpoint")
    saved = set(state)
    mine = {_NETWORK + key for key in network.state_dict()}
    required = mine
    if adapter is not None:
        required = mine - {_NETWORK + key for key in adapter.frozen_keys()}
        required -= {_NETWORK + key for key, _ in network.named_buffers()}
    foreign = {key for key in saved if ".branches." in key} - mine
    if missing := sorted(required - saved) or sorted(foreign):
        raise ValueError(
            f"{owner}: the checkpoint does not fit: {len(required - saved)} tensors are missing in it and {len(foreign)} belong to "
            f"another adapter, the first is {missing[0]!r}. Load it with the adapter and backbone it was trained with (here "
            f"{made_of})."
        )

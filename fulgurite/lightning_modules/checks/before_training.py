"""What is looked at when a fit begins and network, data and trainer have met: what is refused by name, and what is said."""

from __future__ import annotations

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from fulgurite.models.routing import asks_for_balance

__all__ = ["say_what_is_left_out"]


def say_what_is_left_out(owner: str, network: nn.Module, balances_experts: bool) -> None:
    """Warn where the configuration asks for an auxiliary loss of its experts that the objective does not add.

    Args:
        owner: class name of the module, for the message.
        network: what is about to be trained.
        balances_experts: whether the objective adds it.
    """
    if asks_for_balance(network) and not balances_experts:
        rank_zero_warn(
            f"{owner}: the configuration asks for the auxiliary loss that balances experts (output_router_logits); this objective "
            "leaves it out. Language modelling of causal models adds it (SFTModule, SoRAModule, APETModule, CPOModule in cpsft)."
        )

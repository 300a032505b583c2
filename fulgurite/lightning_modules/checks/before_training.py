"""What is looked at when a fit begins and network, data and trainer have met: what is refused by name, and what is said."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from fulgurite.models.routing import asks_for_balance
from fulgurite.optim import ProximalAdamW

__all__ = ["keep_what_autocast_casts", "refuse_float16", "refuse_rate_finder", "say_what_is_left_out"]

# Under bf16-mixed: DPO at 5e-7 fell behind float32 by 0.03, SFT and rewards at 1e-5 by 0.001 (docs/half_precision.md).
_SMALL_RATE = 2e-5


def refuse_rate_finder(owner: str, trainer: Any) -> None:
    """Refuse a callback whose learning rate the schedule would overwrite at the second step.

    Args:
        owner: class name of the module, for the message.
        trainer: Lightning's, about to fit. ``Tuner(trainer).lr_find(module)``, whose fit ends with the search, goes on.

    Raises:
        ValueError: LearningRateFinder is among the callbacks.
    """
    for callback in getattr(trainer, "callbacks", ()):
        if isinstance(callback, LearningRateFinder) and not callback._early_exit:
            raise ValueError(
                f"{owner}: {type(callback).__name__} changes the learning rate after the schedule was made of another, which would "
                "win from the second step on; leave the callback out, call Tuner(trainer).lr_find(module, data) before the fit, or "
                "set learning_rate."
            )


def refuse_float16(owner: str, network: nn.Module, trained: Iterable[nn.Parameter], trainer: Any) -> None:
    """Refuse training in float16, whose steps and gradients round to nothing or overflow.

    Float32 weights under precision 16-mixed are right: its scaler keeps gradients in range. So are adapters, which stay float32,
    on a frozen float16 base with that scaler.

    Args:
        owner: class name of the module, for the message.
        network: what the gradients run through.
        trained: its parameters that are, or will be, trained.
        trainer: Lightning's, about to fit.

    Raises:
        ValueError: a trained parameter is float16, or the base is and no scaler is there.
    """
    way = "give dtype float32 or bfloat16, with precision 32-true, bf16-mixed or bf16-true (or dtype float32 with 16-mixed)"
    precision = getattr(trainer, "precision", "32-true")
    if any(p.dtype == torch.float16 for p in trained):
        raise ValueError(
            f"{owner}: weights in float16 would be trained (precision {precision}), where small steps are lost and large ones "
            f"overflow; {way}."
        )
    scaled = getattr(getattr(trainer, "precision_plugin", None), "scaler", None) is not None
    if not scaled and any(p.dtype == torch.float16 for p in network.parameters()):
        raise ValueError(
            f"{owner}: the base is float16 and precision {precision} has no scaler, so that small gradients become zero; {way}, or "
            "16-mixed for an adapter on a float16 base."
        )


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


@torch.no_grad()
def keep_what_autocast_casts(
    owner: str, network: nn.Module, adapted: bool, learning_rate: float, trainer: Trainer
) -> list[nn.Parameter]:
    """Keep small steps from being rounded away in each forward: float32 weights that came in bfloat16, under bf16-mixed.

    The optimizer gives them masters, as it does to bfloat16 weights. Where it cannot, because an adapter's own numbers are added
    to the base in the forward or because the optimizer is another one, a warning says so.

    Args:
        owner: class name of the module, for the message.
        network: what is about to be trained, its weights loaded.
        adapted: whether an adapter is trained.
        learning_rate: peak learning rate.
        trainer: with its optimizers.

    Returns:
        The weights that have masters.
    """
    if str(trainer.precision) != "bf16-mixed" or learning_rate > _SMALL_RATE:
        return []
    wide = [p for p in network.parameters() if p.requires_grad and p.dtype == torch.float32]
    # A matrix of zeros is a factor or a head that starts there, whose first step bfloat16 holds well.
    came = [p for p in wide if bool((p.bfloat16() == p).all()) and (p.dim() < 2 or bool(p.any()))]
    ours = [optimizer for optimizer in trainer.optimizers if isinstance(optimizer, ProximalAdamW)]
    if not adapted and len(ours) == len(trainer.optimizers):
        kept = [p for p in came if p.dim() > 1]
        for optimizer in ours:
            optimizer.keep_masters(kept)
        return kept
    count = sum(p.numel() for p in wide)
    if sum(p.numel() for p in came) > count / 2:
        rank_zero_warn(
            f"{owner}: most of the {count:,} trained numbers are such that bfloat16 holds, learning_rate is "
            f"{learning_rate:g} and precision is bf16-mixed: autocast rounds so small steps away, and the loss falls behind; use "
            "precision 32-true (docs/half_precision.md)."
        )
    return []

"""Switching dropout off by setting its probabilities to 0: evaluation mode would switch activation checkpointing off as well."""

from torch import nn

__all__ = ["switch_dropout_off"]


def switch_dropout_off(network: nn.Module) -> None:
    """Sets every dropout probability of a network to 0, by whatever name a model keeps it.

    Args:
        network: a model of transformers, or any other.
    """
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)

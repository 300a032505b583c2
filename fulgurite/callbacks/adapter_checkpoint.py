"""Checkpoints that hold what is trained and leave the frozen base out.

A callback, because overriding ``state_dict`` is bypassed when a module sits inside a user's LightningModule. Loading is
strict all the same: adapted models fill in their own frozen base (see :func:`fulgurite.adapters.attach`).
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from fulgurite.adapters import Adapter, find_adapters

__all__ = ["AdapterCheckpoint"]


class AdapterCheckpoint(Callback):
    """Leave frozen base weights of adapted models out of every checkpoint that the Trainer writes.

    Works for any LightningModule that holds adapted models at any depth; one without adapters is saved whole.
    """

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Drop the frozen keys."""
        frozen = {prefix + key for prefix, adapter in _placed(pl_module) for key in adapter.frozen_keys()}
        if frozen:
            checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k not in frozen}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check that every trained key of the adapters came back.

        Raises:
            KeyError: a missing key, named.
        """
        saved = checkpoint["state_dict"]
        for prefix, adapter in _placed(pl_module):
            adapter.prepare_load(saved, prefix)
            missing = [prefix + key for key in adapter.trained_keys() if prefix + key not in saved]
            if missing:
                raise KeyError(
                    f"AdapterCheckpoint: the checkpoint lacks {len(missing)} tensors of adapter {adapter.name!r}, the first is "
                    f"{missing[0]}; it was written with another adapter or model."
                )


def _placed(pl_module: LightningModule) -> list[tuple[str, Adapter]]:
    """Each adapter inside ``pl_module`` with the key prefix of the model it is attached to."""
    prefixes = {id(module): f"{name}." if name else "" for name, module in pl_module.named_modules()}
    return [(prefixes[id(adapter.model)], adapter) for adapter in find_adapters(pl_module)]

"""Offsite tuning (Offsite-Tuning, arXiv 2302.04870; CRaSh, arXiv 2310.15477): train some layers of a model that one does not have.

The owner of a model gives away an emulator (`fulgurite emulate`): some of its layers, a few of which are to be trained. This module
trains these, whole or with an adapter, while everything else stands still. Its checkpoints hold nothing but what was trained, and
the owner puts that into the full model (`fulgurite plug-in`).

The loss is that of the emulator. The papers take the checkpoint with the lowest perplexity of the emulator (ModelCheckpoint with
`monitor: val_loss`); that perplexity says little about the full model with the layers in it, which only its owner can measure.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fulgurite.adapters import Adapter, attach
from fulgurite.data.inherited_options import inherits_options
from fulgurite.lightning_modules.checks.hyperparameters import remember
from fulgurite.lightning_modules.finetune import FinetuneModule
from fulgurite.models import Backbone
from fulgurite.models.emulator.folder import load_emulator
from fulgurite.models.emulator.manifest import Manifest
from fulgurite.models.emulator.within import within_layers

__all__ = ["OffsiteTuningModule"]


@inherits_options(
    FinetuneModule,
    without=("task", "num_labels", "head_learning_rate", "quantize", "resize_embeddings", "from_scratch"),
    learning_rate=5e-5,
    warmup_ratio=0.03,
    lr_schedule="cosine",
)
class OffsiteTuningModule(FinetuneModule):
    """Train the chosen layers of an emulator.

    Args:
        backbone: the emulator: a folder that `fulgurite emulate` wrote.
        adapter: LoRA, SoRA or APET inside of the chosen layers; None trains these layers whole.
        learning_rate: peak learning rate.
    """

    exports = False
    instead_of_export = "layers of an emulator; `fulgurite plug-in` puts them into the full model"
    trained_part = "the chosen layers of the emulator"

    def __init__(self, backbone: str, **options: Any) -> None:
        arguments = {**locals(), **options}
        super().__init__(task="causal_lm", backbone=backbone, **options)
        remember(self, arguments, OffsiteTuningModule)
        self.manifest: Manifest | None = None

    @staticmethod
    def leaves_by(checkpoint: str, out: str) -> list[str]:
        """The words of the command that takes what was trained further.

        Args:
            checkpoint: the file.
            out: the folder to make.
        """
        return ["plug-in", "--ckpt_path", checkpoint, "--model", "FULL", "--out", out]

    def load_base(self) -> Backbone:
        """The emulator, as its owner wrote it."""
        found = load_emulator(self.backbone, self.dtype_name, self.trust_remote_code)
        self.manifest = found.manifest
        return Backbone(found.model, ())

    def _prepare_base(self, model: nn.Module) -> None:
        assert self.manifest is not None
        model.requires_grad_(False)
        layers: Any = model.get_submodule(self.manifest.layers_name)
        for place in self.manifest.trained_places:
            layers[place].requires_grad_(True)

    def _attach(self, model: nn.Module, heads: tuple[str, ...]) -> Adapter:
        assert self.manifest is not None and self.adapter_config is not None
        name, places = self.manifest.layers_name, self.manifest.trained_places
        return attach(model, within_layers(self.adapter_config, model, name, places), train=heads)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Only what was trained is kept, with the manifest that says where it belongs."""
        super().on_save_checkpoint(checkpoint)
        network = self._network()
        assert self.manifest is not None
        checkpoint["emulator"] = self.manifest.to_dict()
        frozen = _frozen(network)
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k not in frozen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the layers were trained on this emulator; the frozen part is its own."""
        network = self._network()
        assert self.manifest is not None
        stored = Manifest.from_dict(checkpoint.get("emulator"), "OffsiteTuningModule: the checkpoint")
        if stored != self.manifest:
            mine = (self.manifest.origin_class, self.manifest.origin_hash)
            same = (stored.origin_class, stored.origin_hash) == mine
            what = "with other layers or other sharing" if same else "of another base"
            raise ValueError(
                f"OffsiteTuningModule: the checkpoint was trained on an emulator {what} than {self.backbone}; give the emulator "
                "that it was trained on (--model.backbone)"
            )
        for name, parameter in _frozen(network).items():
            checkpoint["state_dict"].setdefault(name, parameter.detach())
        super().on_load_checkpoint(checkpoint)


def _frozen(network: nn.Module) -> dict[str, nn.Parameter]:
    """What is not trained, by the keys of a checkpoint; a parameter that several modules share under each of its names."""
    named = network.named_parameters(remove_duplicate=False)
    return {f"network.{name}": p for name, p in named if not p.requires_grad}

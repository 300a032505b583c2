"""Classification and regression of single texts and pairs, with any adapter or none (full tuning)."""

from __future__ import annotations

from typing import Any, Literal

from fulgurite.data.inherited_options import inherits_options
from fulgurite.lightning_modules.checks.hyperparameters import remember
from fulgurite.lightning_modules.finetune import FinetuneModule

__all__ = ["ClassificationModule"]


@inherits_options(FinetuneModule, without=("from_scratch",))
class ClassificationModule(FinetuneModule):
    """Fine-tune a backbone with a sequence-classification head.

    Args:
        task: "classification" or "regression" (one output, squared error).
        adapter: LoRA, SoRA, APET, or nothing to train the whole network.
    """

    def __init__(
        self,
        backbone: str,
        task: Literal["classification", "regression"] = "classification",
        **options: Any,
    ) -> None:
        arguments = {**locals(), **options}
        super().__init__(task=task, backbone=backbone, **options)
        remember(self, arguments, ClassificationModule)

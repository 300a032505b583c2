"""Language modelling: next-token cross-entropy of a causal model, or of an encoder-decoder, with any adapter or none."""

from __future__ import annotations

from typing import Any, Literal

from fulgurite.data.inherited_options import inherits_options
from fulgurite.lightning_modules.checks.hyperparameters import remember
from fulgurite.lightning_modules.finetune import FinetuneModule

__all__ = ["SFTModule"]


@inherits_options(
    FinetuneModule,
    without=("head_learning_rate", "num_labels"),
    learning_rate=2e-4,
    warmup_ratio=0.03,
    lr_schedule="cosine",
)
class SFTModule(FinetuneModule):
    """Fine-tune a language model on text.

    Args:
        task: "causal_lm" or "seq2seq".
        adapter: LoRA, SoRA, APET, or nothing to train the whole network.
        from_scratch: draw random weights instead of loading the backbone's (pretraining).
    """

    whole_because = None

    def __init__(
        self,
        backbone: str,
        task: Literal["causal_lm", "seq2seq"] = "causal_lm",
        **options: Any,
    ) -> None:
        arguments = {**locals(), **options}
        super().__init__(task=task, backbone=backbone, **options)
        remember(self, arguments, SFTModule)

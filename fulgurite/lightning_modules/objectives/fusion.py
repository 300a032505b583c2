"""UltraFuser's objective: the answers' tokens under the blend of all specialists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fulgurite.kernels import fused_log_probs, fused_token_scores
from fulgurite.lightning_modules.objectives.step import Objective, Step
from fulgurite.models import FusedNetwork

__all__ = ["FusionObjective"]


class FusionObjective(Objective):
    """Cross-entropy of the blend; in evaluation the Step's details hold ``gate_weights`` (K, E)."""

    name, metric_names = "cross-entropy", ("perplexity", "token_accuracy")

    def __call__(self, network: Any, batch: Any) -> Step:
        """Loss of the answers' tokens; in evaluation also each token's, and the gate's weights.

        Args:
            network: a :class:`fulgurite.models.FusedNetwork`.
            batch: ids and masks of each specialist, ``sources`` and ``targets`` (see UltraChat2DataModule).

        Raises:
            ValueError: a batch without the specialists' views; hidden states that are not finite.
        """
        if "sources" not in batch:
            raise ValueError(
                f"UltraFuserModule: the batch holds {', '.join(sorted(batch))}, and no views of the specialists. Give --data "
                "UltraChat2DataModule, which lays each specialist's template over the prompts."
            )
        targets = batch["targets"]
        # In stage 1 no parameter of a specialist requires a gradient, so that none of them keeps activations.
        hiddens, scores = network(batch["input_ids"], batch["attention_mask"], batch["sources"])
        heads = _heads(network, hiddens)
        count = torch.tensor(len(targets), device=targets.device)
        if torch.is_grad_enabled():
            log_probs = fused_log_probs(hiddens, gate_scores=scores, targets=targets, **heads)
            return Step(-log_probs.sum(), count)
        found = fused_token_scores(hiddens, gate_scores=scores, targets=targets, **heads)
        return Step(
            -found.log_probs.sum(),
            count,
            token_losses=-found.log_probs,
            correct=found.correct,
            groups=batch["tag"][batch["row"]] if "tag" in batch else None,
            details={"gate_weights": scores.softmax(-1)},
        )


def _heads(network: FusedNetwork, hiddens: Sequence[torch.Tensor]) -> dict[str, Any]:
    """The heads as the fused kernels take them."""
    try:
        return network.blended_heads()
    except ValueError:
        # A head cannot be proved on a model whose states are NaN: that is then what is wrong with it.
        for hidden, name in zip(hiddens, network.names, strict=True):
            if not bool(hidden.isfinite().all()):
                raise ValueError(
                    f"UltraFuserModule: the hidden states of {name} are not finite; look at that model alone, in float32 or "
                    "bfloat16"
                ) from None
        raise

"""What a training step draws, and what it knows of it before the first optimizer step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fulgurite.lightning_modules.rollouts.drawing import Group, seed_of_step
from fulgurite.lightning_modules.rollouts.figures import drawn_figures, usable
from fulgurite.lightning_modules.rollouts.packs import Trees, trees_of
from fulgurite.lightning_modules.rollouts.together import draw_together

__all__ = ["roll_out"]


def roll_out(module: Any, batch: Any, step: int) -> tuple[list[Group], Trees | None, dict[str, float]]:
    """See :meth:`fulgurite.lightning_modules.RLModule.roll_out`.

    Args:
        module: an RLModule.
        batch: of PromptsDataModule.
        step: optimizer steps before this batch.
    """
    settings = replace(module.sampling, seed=seed_of_step(module.seed, step))
    drawn = draw_together(
        "RLModule",
        lambda part, keys: module.draw(part, module.answers, settings, module.truncation_penalty, keys),
        batch,
        module.redraw_groups,
    )
    groups = drawn.groups
    module.rewards.look(groups)
    figures = drawn_figures(groups)
    figures["drawn_tokens"] = drawn.thrown + sum(len(a.tokens) for group in groups for a in group.answers)
    if module.redraw_groups:
        figures["redrawn"] = drawn.redrawn / len(groups)
    if all(answer.cut and module.mask_truncated for group in usable(groups) for answer in group.answers):
        return groups, None, figures
    kept = usable(drawn.own)
    trees, rewards = trees_of(kept, module._tokenizer().pad_token_id, module.packing, module.mask_truncated)
    figures |= module.scoring(module._network(), trees, rewards, module.kl.beta, module.token_budget)
    return groups, trees, figures

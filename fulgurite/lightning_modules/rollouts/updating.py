"""The optimizer steps of one batch of drawn answers: inner epochs, minibatches of whole groups, packs, clipping, figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from fulgurite.lightning_modules.objectives.policy import PolicyObjective
from fulgurite.lightning_modules.objectives.step import Step
from fulgurite.lightning_modules.rollouts.drawing import seed_of_step
from fulgurite.lightning_modules.rollouts.packs import Trees
from fulgurite.lightning_modules.rollouts.scoring import on_device

__all__ = ["minibatches_of", "update", "with_window"]


def update(module: Any, trees: Trees, step: int, batch_idx: int) -> tuple[torch.Tensor, dict[str, float]]:
    """Take the steps; the mean loss () and figures by name.

    A minibatch of which every answer is masked takes no step.

    Args:
        module: with objective, options and optimizer; an RLModule inside a Trainer.
        trees: scored.
        step: optimizer steps before this batch, which decides the order.
        batch_idx: of the batch, for messages.
    """
    objective: PolicyObjective = module.policy
    optimizer, scheduler = module.optimizers(), module.lr_schedulers()
    losses: list[torch.Tensor] = []
    steps: list[Step] = []
    norms: list[torch.Tensor] = []
    for inner in range(module.inner_epochs):
        for part in minibatches_of(len(trees), module.minibatches, module.seed, step, inner):
            batches = [trees.batch(pack) for pack in trees.packs(part, module.token_budget)]
            batches = with_window(objective, [b for b in batches if bool(b["counted"].any())], module.kl.beta)
            if not batches:
                continue
            optimizer.zero_grad()
            total = torch.zeros((), device=module.device)
            for batch in batches:
                found = objective(module.network, on_device(objective, batch, module.device))
                module._refuse_non_finite(found.loss_sum, batch_idx)
                loss = found.loss_sum / batch["tokens_in_window"].to(module.device)
                module.manual_backward(loss)
                total = total + loss.detach()
                steps.append(found._replace(loss_sum=found.loss_sum.detach()))
            penalty = module._penalty()
            if isinstance(penalty, torch.Tensor) and penalty.requires_grad:
                module.manual_backward(penalty)
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            most = module.max_grad_norm or float("inf")
            norms.append(torch.nn.utils.clip_grad_norm_(parameters, most))
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            losses.append(total)
    if not losses:
        return torch.zeros((), device=module.device), {}
    return torch.stack(losses).mean(), {"grad_norm": float(torch.stack(norms).mean()), **_figures(steps)}


def minibatches_of(trees: int, count: int, seed: int, step: int, inner: int) -> Iterator[list[int]]:
    """The trees of each minibatch, in an order of its own for each inner epoch; sizes differ by one at most.

    Args:
        trees: how many there are.
        count: minibatches at most; no more than there are trees.
        seed: of the run.
        step: optimizer steps before this batch.
        inner: number of the inner epoch.
    """
    generator = torch.Generator().manual_seed(seed_of_step(seed, step * 1_000 + inner))
    order = torch.randperm(trees, generator=generator, device="cpu").tolist() if count > 1 else list(range(trees))
    count = min(count, trees)
    yield from (sorted(order[at::count]) for at in range(count))


def with_window(objective: PolicyObjective, batches: list[Any], beta: float) -> list[Any]:
    """The packs of one optimizer step with the denominators of the whole step, and the weight of KL.

    Args:
        objective: whose mean it is.
        batches: the step's packs.
        beta: weight of KL.
    """
    tokens = sum(int(batch["counted"].sum()) for batch in batches)
    answers = sum(len(batch["owner"][batch["counted"]].unique()) for batch in batches)
    window = {
        "beta": torch.tensor(beta),
        "tokens_in_window": torch.tensor(objective.loss.denominator(tokens, answers)),
        "counted_in_window": torch.tensor(tokens),
    }
    return [{**batch, **window} for batch in batches]


def _figures(steps: list[Step]) -> dict[str, float]:
    found = {}
    for name in steps[0].metrics:
        total = sum(float(step.metrics[name].total) for step in steps)
        found[name] = total / max(1, sum(int(step.metrics[name].number) for step in steps))
    found["ratio_max"] = max(float(step.details["ratio_max"]) for step in steps)
    return found

"""The optimizer steps of one batch of drawn answers: inner epochs, minibatches of whole groups, packs, clipping, figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from fulgurite.lightning_modules.objectives.policy import PolicyObjective
from fulgurite.lightning_modules.objectives.step import Step
from fulgurite.lightning_modules.processes.agreeing import average_gradients, gathered, place, summed
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
    processes = place()[1]
    everywhere = sorted(at for share in gathered(trees.places) for at in share)
    own = {at: tree for tree, at in enumerate(trees.places)}
    optimizer, scheduler = module.optimizers(), module.lr_schedulers()
    losses: list[torch.Tensor] = []
    steps: list[Step] = []
    norms: list[torch.Tensor] = []
    for inner in range(module.inner_epochs):
        for part in minibatches_of(len(everywhere), module.minibatches, module.seed, step, inner):
            mine = [own[everywhere[tree]] for tree in part if everywhere[tree] in own]
            batches = [trees.batch(pack) for pack in trees.packs(mine, module.token_budget)]
            batches = [batch for batch in batches if bool(batch["counted"].any())]
            if not summed([len(batches)], module.device)[0]:
                continue
            batches = with_window(objective, batches, module.kl.beta, module.device)
            optimizer.zero_grad()
            total = torch.zeros((), device=module.device)
            with _apart(module.trainer):
                for batch in batches:
                    found = objective(module.network, on_device(objective, batch, module.device))
                    module._refuse_non_finite(found.loss_sum, batch_idx)
                    loss = found.loss_sum / batch["tokens_in_window"].to(module.device)
                    # The processes' gradients are averaged below, and the loss is a sum over their tokens.
                    module.manual_backward(loss * processes)
                    total = total + loss.detach()
                    steps.append(found._replace(loss_sum=found.loss_sum.detach()))
                penalty = module._penalty()
                if isinstance(penalty, torch.Tensor) and penalty.requires_grad:
                    module.manual_backward(penalty)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            if processes > 1:
                average_gradients(parameters)
                total = total.new_tensor(summed([float(total)], module.device)[0])
            most = module.max_grad_norm or float("inf")
            norms.append(torch.nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], most))
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            losses.append(total)
    if not losses:
        return torch.zeros((), device=module.device), {}
    return torch.stack(losses).mean(), {"grad_norm": float(torch.stack(norms).mean()), **_figures(steps)}


def _apart(trainer: Any) -> AbstractContextManager[None]:
    """Within the block a backward leaves the gradients of other processes alone: these may have more packs, or fewer."""
    apart = getattr(trainer.strategy, "block_backward_sync", None)
    return nullcontext() if apart is None else apart()


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


def with_window(
    objective: PolicyObjective, batches: list[Any], beta: float, device: torch.device | None = None
) -> list[Any]:
    """The packs of one optimizer step with the denominators of the whole step, and the weight of KL.

    Denominators count the packs of all processes: the gradients of the processes add up to the step's, their mean does not.

    Args:
        objective: whose mean it is.
        batches: the step's packs.
        beta: weight of KL.
        device: where the processes talk to each other; None for the CPU.
    """
    own_tokens = sum(int(batch["counted"].sum()) for batch in batches)
    own_answers = sum(len(batch["owner"][batch["counted"]].unique()) for batch in batches)
    tokens, answers = map(int, summed([own_tokens, own_answers], device or torch.device("cpu")))
    window = {
        "beta": torch.tensor(beta),
        "tokens_in_window": torch.tensor(objective.loss.denominator(tokens, answers)),
        "counted_in_window": torch.tensor(tokens),
    }
    return [{**batch, **window} for batch in batches]


def _figures(steps: list[Step]) -> dict[str, float]:
    """Means over the packs of all processes, and the largest ratio."""
    mine = [
        (
            {name: (float(mean.total), int(mean.number)) for name, mean in step.metrics.items()},
            float(step.details["ratio_max"]),
        )
        for step in steps
    ]
    every = [pack for share in gathered(mine) for pack in share]
    found = {}
    for name in every[0][0]:
        found[name] = sum(pack[name][0] for pack, _ in every) / max(1, sum(pack[name][1] for pack, _ in every))
    found["ratio_max"] = max(largest for _, largest in every)
    return found

"""Ours against TRL's own code on random inputs: GRPOTrainer's loss and its gradient, and the advantages of GRPO and RLOO.

GRPO's loss method runs on a light object in place of a trainer. TRL computes advantages in the middle of a method that draws, so
these are compared with the lines of TRL 1.16 that do it, on TRL's own helper functions.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from fulgurite.losses import PolicyLoss, group_relative, kl_estimate, leave_one_out, sampler_weights

pytest.importorskip("trl", minversion="1.16", reason="trl 1.16 or newer is not installed: nothing to compare with")

ROWS, TOKENS = 6, 9


def draw(seed=0):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, TOKENS + 1, (ROWS,), generator=g)
    mask = torch.arange(TOKENS) < lengths[:, None]

    def random(scale=1.0):
        return scale * torch.randn(ROWS, TOKENS, generator=g, dtype=torch.float64)

    now = -2 + random()
    return mask, now, now + random(0.3), now + random(0.4), torch.randn(ROWS, generator=g, dtype=torch.float64)


def grpo(loss_type, level, beta, delta, now, mask, inputs):
    from trl import GRPOTrainer

    accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1
    )
    own = SimpleNamespace(
        accelerator=accelerator, model=SimpleNamespace(training=True), aux_loss_enabled=False, top_entropy_quantile=1.0,
        off_policy_mask_threshold=None, importance_sampling_level=level, beta=beta, loss_type=loss_type, epsilon_low=0.2,
        epsilon_high=0.28, use_vllm=True, vllm_importance_sampling_correction=True, max_completion_length=TOKENS,
        current_gradient_accumulation_steps=1, _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        args=SimpleNamespace(delta=delta, use_bias_correction_kl=False, steps_per_generation=1),
    )  # fmt: skip
    own._get_per_token_logps_and_entropies = lambda *args, **options: (now, torch.zeros_like(now), None)
    ids = torch.zeros(ROWS, TOKENS, dtype=torch.int64)
    empty = torch.zeros(ROWS, 0, dtype=torch.int64)
    batch = {"prompt_ids": empty, "prompt_mask": empty, "completion_ids": ids, "completion_mask": mask.long(), **inputs}
    return GRPOTrainer._compute_loss(own, own.model, batch)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("loss_type", "mean"), [("grpo", "answer"), ("dapo", "token"), ("dr_grpo", "constant")])
@pytest.mark.parametrize(("beta", "delta"), [(0.0, None), (0.04, 3.0)])
def test_the_loss_and_its_gradient_equal_those_of_grpo(loss_type, mean, level, beta, delta):
    mask, now, old, reference, advantages = draw()
    sampler = old + 0.2
    theirs, ours = now.clone().requires_grad_(), now.clone().requires_grad_()
    owner = torch.arange(ROWS)[:, None].expand(-1, TOKENS)[mask]
    weights = sampler_weights(old[mask], sampler[mask], owner, ROWS, 3.0)
    ratio = torch.ones(ROWS, TOKENS, dtype=torch.float64)
    ratio[mask] = weights
    inputs = {
        "advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": reference,
        "importance_sampling_ratio": ratio, "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    expected = grpo(loss_type, level, beta, delta, theirs, mask, inputs)
    loss = PolicyLoss(0.2, 0.28, delta, level, mean, TOKENS)
    tokens = loss.tokens(ours[mask], old[mask], advantages[owner], owner, ROWS).losses * weights
    tokens = tokens + beta * kl_estimate(ours[mask], reference[mask])
    total, count = loss.summed(tokens, owner, ROWS)
    (total / count).backward()
    expected.backward()
    assert float(total / count) == pytest.approx(float(expected), abs=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-6)
    assert float(ours.grad.abs().max()) > 1e-3


def test_advantages_equal_those_of_grpo_and_rloo():
    from trl.trainer.utils import nanstd

    g = torch.Generator().manual_seed(0)
    rewards = torch.randn(5 * 4, generator=g, dtype=torch.float64)
    group = torch.arange(5).repeat_interleave(4)
    grouped = rewards.view(-1, 4)
    centred = rewards - torch.nanmean(grouped, dim=1).repeat_interleave(4)
    by_group = nanstd(grouped, dim=1).repeat_interleave(4)
    torch.testing.assert_close(group_relative(rewards, group), centred / (by_group + 1e-4), rtol=0, atol=1e-6)
    batch = centred / (nanstd(rewards) + 1e-4)
    torch.testing.assert_close(group_relative(rewards, group, "batch"), batch, rtol=0, atol=1e-6)
    baselines = (grouped.nansum(1, keepdim=True) - grouped) / 3
    torch.testing.assert_close(leave_one_out(rewards, group), rewards - baselines.view(-1), rtol=0, atol=1e-6)

"""Draws of another engine: the gradient is biased without the sampler's correction and right with it, against the exact one."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fulgurite.lightning_modules.objectives.policy import PolicyObjective
from fulgurite.lightning_modules.rollouts.credit import Credit
from fulgurite.lightning_modules.rollouts.drawing import Answer, Group
from fulgurite.lightning_modules.rollouts.packs import trees_of
from fulgurite.lightning_modules.rollouts.scoring import Scoring, on_device
from fulgurite.lightning_modules.rollouts.updating import with_window
from fulgurite.losses.policy import PolicyLoss

VOCABULARY, LONG, STEPS, GROUPS, ANSWERS = 5, 3, 20, 24, 8
PROMPT = [0]


def network(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=8,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config)


def token_log_probs(model: LlamaForCausalLM, answers: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Of all tokens of all answers, (answers, LONG)."""
    ids = torch.cat([torch.tensor(PROMPT).expand(len(answers), 1), answers], 1)
    logits = model(input_ids=ids).logits[:, :-1] / temperature
    return logits.log_softmax(-1).gather(-1, answers[:, :, None]).squeeze(-1)


def gradient(model: LlamaForCausalLM) -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return found


@pytest.fixture(scope="module")
def toy():
    """Policy, all answers, the sampler's log-probabilities, rewards, the exact gradient of the loss, and draws of the sampler."""
    policy = network(0)
    every = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=LONG)))
    with torch.no_grad():
        drawn_with = token_log_probs(
            policy, every, temperature=2.0
        )  # an engine that takes no notice of the temperature
        largest = float((token_log_probs(policy, every) - drawn_with).sum(1).exp().max())
    assert 2 < largest < 3, "no weight is cut at the default of correction_cap"
    rewards = (every[:, 0] == every[:, -1]).float()
    (-(token_log_probs(policy, every).sum(1).exp() * rewards).sum() / LONG).backward()
    exact = gradient(policy)
    generator = torch.Generator().manual_seed(1)
    draws = torch.multinomial(drawn_with.sum(1).exp(), STEPS * GROUPS * ANSWERS, True, generator=generator)
    return policy, every, drawn_with, rewards, exact, draws.view(STEPS, GROUPS, ANSWERS)


def share_of_exact(toy, correction, cap=3.0):
    """The drawn gradient along the exact one, as a share of it: its mean over the steps, and that mean's standard error."""
    policy, every, drawn_with, rewards, exact, draws = toy
    objective = PolicyObjective(PolicyLoss())
    scoring = Scoring(objective, Credit("rloo"), None, in_reward=None, correction=correction, cap=cap)
    found = []
    for step in draws:
        groups = []
        for place, numbers in enumerate(step.tolist()):
            answers = [
                Answer(tuple(every[i].tolist()), tuple(drawn_with[i].tolist()), "", False, {}, float(rewards[i]))
                for i in numbers
            ]
            groups.append(Group(PROMPT, (), {}, answers, place))
        trees, totals = trees_of(groups, 0, True, False)
        scoring(policy, trees, totals, 0.0, 10_000)
        (batch,) = with_window(objective, [trees.batch(range(len(trees)))], 0.0)
        result = objective(policy, on_device(objective, batch, torch.device("cpu")))
        (result.loss_sum / batch["tokens_in_window"]).backward()
        found.append(gradient(policy) @ exact / exact.square().sum())
    shares = torch.stack(found).double()
    return float(shares.mean()), float(shares.std() / len(shares) ** 0.5)


@pytest.mark.slow
def test_the_correction_brings_a_biased_gradient_back(toy):
    plain, plain_error = share_of_exact(toy, None)
    right, right_error = share_of_exact(toy, "sequence")
    assert abs(plain - 1) > 5 * plain_error, "another engine's draws teach something else"
    assert abs(right - 1) < 2.5 * right_error and right_error < 0.12
    assert abs(right - 1) < abs(plain - 1) / 2

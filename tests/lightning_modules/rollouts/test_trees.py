"""Trees against a padded row for each answer, and the trainer's log-probabilities against the sampler's."""

from __future__ import annotations

import pytest
import torch

from fulgurite.lightning_modules.rollouts.figures import teaches
from fulgurite.lightning_modules.rollouts.scoring import on_device
from fulgurite.lightning_modules.rollouts.updating import minibatches_of, with_window
from tests.lightning_modules.rollouts.cases import batch_of, policy, prompts


def scored(module, batch):
    """The trees of a step, drawn by a policy that has moved away from its reference."""
    torch.manual_seed(0)
    module.configure_model()
    moved = [p for name, p in module.named_parameters() if name.endswith(("lora_b", "value_head.weight"))]
    assert moved
    for parameter in moved:
        torch.nn.init.normal_(parameter, std=0.02)
    _, trees, figures = module.roll_out(batch, step=5)
    return trees, figures


def loss_and_gradients(module, trees, budget):
    """Of one optimizer step on all trees, after the policy has moved away from what it was when it drew."""
    generator = torch.Generator().manual_seed(0)
    old = trees.get("old")
    trees.put("old", old + 0.3 * torch.randn(len(old), generator=generator))
    packs = trees.packs(range(len(trees)), budget)
    total = 0.0
    for batch in with_window(module.policy, [trees.batch(pack) for pack in packs], beta=0.1):
        found = module.policy(module.network, on_device(module.policy, batch, torch.device("cpu")))
        loss = found.loss_sum / batch["tokens_in_window"]
        loss.backward()
        total += float(loss.detach())
    named = [(n, p.grad) for n, p in module.named_parameters() if p.grad is not None]
    return total, dict(named), len(packs)


@pytest.mark.parametrize(
    "options",
    [
        {"beta": 0.1, "loss_mean": "answer", "temperature": 0.8},
        {"advantage": "gae", "beta": 0.1, "loss_mean": "constant"},
    ],
    ids=["group", "gae"],
)
def test_trees_equal_a_row_for_each_answer(options):
    batch = batch_of(prompts())
    packed, padded = (policy(packing=packing, **options) for packing in (True, False))
    (trees, told), (rows, told_again) = scored(packed, batch), scored(padded, batch)
    assert trees.computed < 0.75 * rows.computed, "prompts stand once"
    torch.testing.assert_close(trees.get("advantages"), rows.get("advantages"), rtol=0, atol=2e-4)
    assert told["kl"] == pytest.approx(told_again["kl"], abs=1e-5)
    rows.put("advantages", trees.get("advantages"))
    rows.put("old", trees.get("old"))
    for name in ("reference", "weights", *(("returns", "old_values") if "advantage" in options else ())):
        rows.put(name, trees.get(name))
    loss, gradients, packs = loss_and_gradients(packed, trees, budget=150)
    expected, wanted, _ = loss_and_gradients(padded, rows, budget=10_000)
    assert packs > 1, "several packs add up to one step"
    assert loss == pytest.approx(expected, abs=1e-5) and abs(loss) > 1e-3
    norm = torch.cat([g.flatten() for g in wanted.values()]).norm()
    assert gradients.keys() == wanted.keys() and norm > 1e-3
    for name, gradient in gradients.items():
        assert float((gradient - wanted[name]).norm() / norm) < 1e-5, name


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}], ids=["plain", "temperature"])
def test_sampler_and_trainer_agree(options):
    module = policy(**options)
    trees, figures = scored(module, batch_of(prompts()))
    torch.testing.assert_close(trees.get("old"), trees.get("sampler"), rtol=0, atol=1e-5)
    assert figures["mismatch"] < 1e-8 and figures["mismatch_max"] < 1e-5
    assert float((trees.get("weights") - 1).abs().max()) < 2e-5


def test_a_truncated_sampler_is_corrected():
    trees, figures = scored(policy(top_k=2), batch_of(prompts()))
    assert figures["mismatch_max"] > 0.01
    expected = (trees.get("old") - trees.get("sampler")).exp().clamp(max=3.0)
    torch.testing.assert_close(trees.get("weights"), expected)
    untouched, _ = scored(policy(top_k=2, correction="none"), batch_of(prompts()))
    assert bool((untouched.get("weights") == 1).all())


def test_minibatches_hold_every_tree_once_in_an_order_of_the_seed():
    first = list(minibatches_of(7, 3, seed=0, step=4, inner=0))
    assert sorted(tree for part in first for tree in part) == list(range(7))
    assert sorted(map(len, first)) == [2, 2, 3]
    assert first == list(minibatches_of(7, 3, seed=0, step=4, inner=0))
    assert first != list(minibatches_of(7, 3, seed=0, step=4, inner=1))
    assert len(list(minibatches_of(2, 5, seed=0, step=0, inner=0))) == 2


def by_sevens(groups):
    """1 for an answer with a 7, so that many groups have equal rewards."""
    return [[float("7" in answer.text) for answer in group.answers] for group in groups]


def alike(groups):
    return [[0.5 for _ in group.answers] for group in groups]


def test_groups_of_equal_rewards_are_drawn_again_and_counted():
    batch = batch_of(prompts())
    found = []
    for again in (0, 3, 3):
        torch.manual_seed(0)
        module = policy(rewards=f"{__name__}:by_sevens", redraw_groups=again)
        module.configure_model()
        found.append(module.roll_out(batch, step=5))
    (first, _, plain), (groups, trees, figures), (_, same, _) = found
    assert "redrawn" not in plain and plain["zero_variance"] > 0 and figures["zero_variance"] < plain["zero_variance"]
    assert torch.equal(trees.get("advantages"), same.get("advantages")), "a resumed run draws the same again"
    kept = [before.answers == after.answers for before, after in zip(first, groups, strict=True)]
    assert kept == [teaches(group) for group in first], "what teaches stays, and nothing else does"
    assert 1 - sum(kept) / 4 <= figures["redrawn"] <= 3 * (1 - sum(kept) / 4)
    answered = sum(len(answer.tokens) for group in groups for answer in group.answers)
    assert figures["drawn_tokens"] > answered and plain["drawn_tokens"] == sum(
        len(answer.tokens) for group in first for answer in group.answers
    )


def test_drawing_again_ends():
    module = policy(rewards=f"{__name__}:alike", redraw_groups=2)
    module.configure_model()
    _, _, figures = module.roll_out(batch_of(prompts()), step=0)
    assert figures["redrawn"] == 2 and figures["zero_variance"] == 1

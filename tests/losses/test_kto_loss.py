"""KTO: the baseline z0, examples among other completions, the rule for the weights."""

from __future__ import annotations

import pytest
import torch

from fulgurite.losses import Completions, PreferenceLoss, kl_baseline, kto_weight_warning


def test_baseline_leaves_out_masked_rows_even_if_not_finite():
    log_probs = torch.tensor([-3.0, float("-inf"), -1.0], requires_grad=True)
    reference = torch.tensor([-5.0, float("-inf"), -2.0])
    found = kl_baseline(log_probs, reference, torch.tensor([True, False, True]))
    assert found.total.item() == 3.0 and found.number.item() == 2 and found.value().item() == 1.5
    assert not found.total.requires_grad


def test_baseline_adds_over_ranks_before_the_clamp():
    """One rank below zero, one above: clamping each first would give (0 + 4)/2 = 2, not 1."""
    ranks = [kl_baseline(torch.tensor([-2.0]), torch.zeros(1)), kl_baseline(torch.tensor([4.0]), torch.zeros(1))]
    total, number = (sum(parts) for parts in zip(*ranks))
    assert (total / number).item() == 1.0
    assert kl_baseline(torch.zeros(0), torch.zeros(0)).value().item() == 0.0


def test_no_gradient_through_the_baseline_and_negative_counts_as_zero():
    loss, kl = PreferenceLoss("kto"), torch.tensor(0.5, requires_grad=True)
    log_probs = torch.tensor([1.0, -2.0], requires_grad=True)
    completions = Completions(log_probs, torch.tensor([3, 3]), torch.zeros(2))
    desirable = torch.tensor([True, False])
    loss(completions, desirable=desirable, kl=kl).loss_sum.backward()
    assert kl.grad is None and (log_probs.grad != 0).all()
    below, zero = (loss(completions, desirable=desirable, kl=torch.tensor(value)).losses for value in (-9.0, 0.0))
    assert torch.equal(below, zero)


def test_examples_among_completions_computed_for_the_baseline():
    """Mismatched completions in the same forward are no examples: they neither lose nor count."""
    log_probs = torch.tensor([-3.0, -9.0, -4.0, -8.0], requires_grad=True)
    reference, lengths = torch.tensor([-4.0, -9.5, -3.0, -8.0]), torch.tensor([2, 2, 3, 3])
    loss, desirable, kl = PreferenceLoss("kto", desirable_weight=1.33), torch.tensor([False, True]), torch.tensor(0.2)
    parts = loss(Completions(log_probs, lengths, reference), desirable=desirable, kl=kl, examples=torch.tensor([2, 0]))
    alone = loss(
        Completions(log_probs[[2, 0]].detach(), lengths[[2, 0]], reference[[2, 0]]), desirable=desirable, kl=kl
    )
    assert torch.equal(parts.losses, alone.losses) and parts.units.item() == 2
    parts.loss_sum.backward()
    assert log_probs.grad[[1, 3]].eq(0).all() and log_probs.grad[0] < 0 < log_probs.grad[2]


def test_weights_of_the_labels():
    completions = Completions(torch.zeros(2), torch.ones(2), torch.zeros(2))
    loss = PreferenceLoss("kto", desirable_weight=1.33, undesirable_weight=0.5)
    parts = loss(completions, desirable=torch.tensor([True, False]), kl=torch.tensor(0.0))
    assert parts.losses.tolist() == pytest.approx([0.665, 0.25])


@pytest.mark.parametrize(
    "balanced", [(100, 100), (100, 100, 1.33, 1.0), (100, 100, 4 / 3, 1.0), (100, 300, 3.0, 1.0), (300, 100, 1.0, 3.0)]
)
def test_balanced_weights_are_silent(balanced):
    assert kto_weight_warning(*balanced) is None


@pytest.mark.parametrize("unbalanced", [(100, 300), (300, 100), (100, 100, 1.5, 1.0), (100, 100, 1.0, 1.33)])
def test_unbalanced_weights_are_reported_with_numbers_that_then_are_silent(unbalanced):
    message = kto_weight_warning(*unbalanced)
    assert message is not None and "between 1 and 4/3" in message
    n_desirable, n_undesirable, desirable, undesirable = (*unbalanced, 1.0, 1.0)[:4]
    words = message.replace(",", " ").split()
    for option in ("desirable_weight", "undesirable_weight"):
        place = words.index(option)
        assert words[place + 1 : place + 3] == ["to", "between"] and words[place + 4] == "and"
        low, high = float(words[place + 3]), float(words[place + 5])
        assert low < high
        for value in (low, high):
            weights = {"desirable_weight": desirable, "undesirable_weight": undesirable} | {option: value}
            assert kto_weight_warning(n_desirable, n_undesirable, **weights) is None


@pytest.mark.parametrize("counts", [(0, 5), (5, 0)])
def test_one_label_only_is_reported(counts):
    assert "both labels are needed" in str(kto_weight_warning(*counts))


def test_zero_weights_are_reported():
    assert "above 0" in str(kto_weight_warning(5, 5, 0.0, 0.0))
    assert "undesirable_weight" in str(kto_weight_warning(5, 5, 1.0, 0.0))

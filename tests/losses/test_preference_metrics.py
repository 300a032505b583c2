"""Metrics of preference training: values, ties, labels, groups, adding up over batches."""

from __future__ import annotations

import pytest
import torch

from fulgurite.losses import Completions, Mean, PreferenceLoss, means, preference_metrics

PAIRS = torch.tensor([[0, 1], [2, 1], [3, 0]])


def completions(dtype=torch.float32, requires_grad=False):
    log_probs = torch.tensor([-4.0, -6.0, -7.0, -9.0], dtype=dtype, requires_grad=requires_grad)
    return Completions(log_probs, torch.tensor([2, 3, 7, 3]), torch.tensor([-6.0, -7.0, -8.0, -8.0], dtype=dtype))


def values(sums):
    return {name: value.item() for name, value in means(sums).items()}


def test_pairs():
    """Rewards 0.2, 0.1, 0.1, −0.1: the pairs are won, tied and lost."""
    found = values(preference_metrics(PreferenceLoss("dpo"), completions(torch.float64), pairs=PAIRS))
    assert found == pytest.approx(
        {
            "rewards/chosen": 0.2 / 3,
            "rewards/rejected": 0.4 / 3,
            "rewards/accuracies": 0.5,
            "rewards/margins": -0.2 / 3,
            "logps/chosen": -20 / 3,
            "logps/rejected": -16 / 3,
        }
    )


def test_an_untrained_policy_has_accuracy_one_half():
    same = Completions(torch.tensor([-3.0, -5.0]), torch.tensor([2, 2]), torch.tensor([-3.0, -5.0]))
    assert values(preference_metrics(PreferenceLoss("dpo"), same, pairs=PAIRS[:1]))["rewards/accuracies"] == 0.5


def test_rewards_without_a_reference_are_those_of_the_loss():
    found = values(preference_metrics(PreferenceLoss("simpo", beta=2.0), completions(), pairs=PAIRS[:1]))
    assert found["rewards/chosen"] == pytest.approx(-4.0) and found["rewards/rejected"] == pytest.approx(-4.0)
    assert found["logps/chosen"] == pytest.approx(-4.0)


def test_labels():
    found = values(
        preference_metrics(
            PreferenceLoss("kto"),
            completions(),
            desirable=torch.tensor([True, False, True]),
            examples=torch.tensor([0, 3, 1]),
            kl=torch.tensor(0.25),
        )
    )
    expected = {"rewards/desirable": 0.15, "rewards/undesirable": -0.1, "rewards/margins": 0.25, "kl": 0.25}
    assert found == pytest.approx(expected | {"logps/desirable": -5.0, "logps/undesirable": -9.0})


def test_a_label_that_does_not_occur_is_left_out():
    found = preference_metrics(PreferenceLoss("kto"), completions(), desirable=torch.ones(4, dtype=torch.bool))
    assert found["rewards/undesirable"].number.item() == 0
    assert set(means(found)) == {"rewards/desirable", "logps/desirable"}


def test_groups_count_as_all_their_pairs_of_different_score():
    loss, given = PreferenceLoss("infonca"), completions()
    given = Completions(*(torch.cat((part, part[:1])) for part in (given.log_probs, given.lengths, given.reference)))
    group, scores = torch.tensor([0, 0, 0, -1, -1]), torch.tensor([3.0, 1.0, 1.0, 9.0, 8.0])
    found = preference_metrics(loss, given, group=group, scores=scores)
    as_pairs = preference_metrics(loss, given, pairs=torch.tensor([[0, 1], [0, 2]]))
    assert values(found) == pytest.approx(values(as_pairs)) and found["rewards/chosen"].number.item() == 2


def test_pairs_may_be_given_for_any_loss():
    kto, dpo = (preference_metrics(PreferenceLoss(name), completions(), pairs=PAIRS) for name in ("kto", "dpo"))
    assert values(kto) == values(dpo)


def test_uneven_batches_add_up():
    loss = PreferenceLoss("dpo")
    parts = [preference_metrics(loss, completions(), pairs=part) for part in (PAIRS[:1], PAIRS[1:])]
    added = {name: Mean(*(sum(pair) for pair in zip(*(part[name] for part in parts)))) for name in parts[0]}
    assert values(added) == pytest.approx(values(preference_metrics(loss, completions(), pairs=PAIRS)))


def test_metrics_hold_no_graph():
    found = preference_metrics(PreferenceLoss("dpo"), completions(requires_grad=True), pairs=PAIRS)
    assert not any(mean.total.requires_grad for mean in found.values())


def test_nothing_to_measure_is_refused():
    with pytest.raises(ValueError, match="preference_metrics: neither pairs"):
        preference_metrics(PreferenceLoss("dpo"), completions())

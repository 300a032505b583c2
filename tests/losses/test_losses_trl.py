"""Ours against TRL's own code on random inputs: DPOTrainer, KTOTrainer, CPOTrainer and RewardTrainer compute the losses.

Their methods run on a light object in place of a trainer, with a model that returns the log-probabilities drawn here.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from fulgurite.losses import Completions, PreferenceLoss, RewardLoss, kl_baseline, means, preference_metrics

pytest.importorskip("trl", minversion="1.16", reason="trl 1.16 or newer is not installed: nothing to compare with")

ROWS, TOKENS, PROMPT, BETA = 5, 12, 4, 0.3
PAIRS = torch.stack((torch.arange(ROWS), torch.arange(ROWS) + ROWS), 1)


def draw(rows, seed=0):
    """Ragged completions of `rows` rows, float64: token log-probabilities (zero outside), mask (rows, T), reference."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, TOKENS - PROMPT + 1, (rows,), generator=g)
    position = torch.arange(TOKENS)
    mask = (position >= PROMPT) & (position < PROMPT + lengths[:, None])
    per_token = -2 * torch.rand(rows, TOKENS - 1, generator=g, dtype=torch.float64) * mask[:, 1:]
    reference = per_token.sum(1) + 3 * torch.randn(rows, generator=g, dtype=torch.float64)
    return per_token, mask.long(), reference, lengths


def outputs(per_token):
    """What TRL's fused head returns, as far as its losses look."""
    return SimpleNamespace(
        log_probs=per_token,
        entropy=torch.zeros_like(per_token),
        mean_logits=torch.zeros_like(per_token),
        is_top1=torch.zeros_like(per_token, dtype=torch.bool),
    )


class Model:
    """Returns the given outputs whatever it is asked."""

    training = True

    def __init__(self, result):
        self.result = result

    def __call__(self, *args, **kwargs):
        return self.result


def trainer(**attributes):
    """An object with what the loss methods of TRL's trainers read."""
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
    common = dict(
        accelerator=accelerator,
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        beta=BETA,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    return SimpleNamespace(**(common | attributes))


def trl_dpo(names, weights, per_token, mask, reference, label_smoothing=0.0):
    from trl import DPOTrainer

    light = trainer(
        loss_types=names,
        loss_weights=weights,
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        label_smoothing=label_smoothing,
        use_weighting=False,
    )
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": reference[:ROWS],
        "ref_rejected_logps": reference[ROWS:],
    }
    return DPOTrainer._compute_loss(light, Model(outputs(per_token)), inputs, False), light._metrics["train"]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("theirs", "ours", "options"),
    [
        (["sigmoid"], "dpo", {}),
        (["hinge"], "hinge", {}),
        (["ipo"], "ipo", {}),
        (["robust"], "robust", {"label_smoothing": 0.1}),
        (["nca_pair"], "nca", {}),
        (["bco_pair"], "biased_nca", {}),
        (["sft"], "sft", {"nll_over": "batch"}),
        (["sigmoid", "sft"], ["dpo", "sft"], {"nll_over": "batch", "weights": [1.0, 0.2]}),
        (["nca_pair", "ipo", "hinge"], ["nca", "ipo", "hinge"], {"weights": [0.5, 0.01, 2.0]}),
    ],
)
def test_dpo_trainer(theirs, ours, options, seed):
    per_token, mask, reference, lengths = draw(2 * ROWS, seed)
    their_tokens, our_tokens = (per_token.clone().requires_grad_() for _ in range(2))
    smoothing = {key: options[key] for key in ("label_smoothing",) if key in options}
    expected, logged = trl_dpo(
        theirs, options.get("weights", [1.0]), their_tokens * mask[:, 1:], mask, reference, **smoothing
    )
    expected.backward()
    loss, completions = PreferenceLoss(ours, beta=BETA, **options), Completions(our_tokens.sum(1), lengths, reference)
    parts = loss(completions, pairs=PAIRS)
    (parts.loss_sum / parts.units).backward()
    torch.testing.assert_close(parts.loss_sum / parts.units, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(our_tokens.grad * mask[:, 1:], their_tokens.grad, rtol=1e-6, atol=1e-9)
    if loss.needs_reference:
        found = means(preference_metrics(loss, completions, pairs=PAIRS))
        assert {name: value.item() for name, value in found.items()} == pytest.approx(
            {name: logged[name][0] for name in found}, rel=1e-6
        )


@pytest.mark.parametrize("shift", [4.0, -4.0])
def test_kto_trainer(shift):
    from trl import KTOTrainer

    per_token, mask, reference, lengths = draw(ROWS)
    kl_log_probs, _, kl_reference, _ = draw(ROWS, seed=7)
    kl_log_probs = kl_log_probs.sum(1) + shift
    label = torch.tensor([True, False, False, True, False])
    light = trainer(
        calculate_KL=True,
        loss_type="kto",
        desirable_weight=1.33,
        undesirable_weight=0.8,
        _compute_kl_logps=lambda model, batch: kl_log_probs,
    )
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "label": label,
        "ref_logps": reference,
        "ref_KL_logps": kl_reference,
    }
    expected = KTOTrainer._compute_loss(light, Model(outputs(per_token)), inputs, False)
    logged = light._metrics["train"]
    loss = PreferenceLoss("kto", beta=BETA, desirable_weight=1.33, undesirable_weight=0.8)
    completions = Completions(per_token.sum(1), lengths, reference)
    kl = kl_baseline(kl_log_probs, kl_reference).value()
    parts = loss(completions, desirable=label, kl=kl)
    torch.testing.assert_close(parts.loss_sum / parts.units, expected, rtol=1e-6, atol=1e-6)
    found = means(preference_metrics(loss, completions, desirable=label, kl=kl))
    assert (found["kl"].item() > 0) == (shift > 0)
    for name, value in found.items():
        theirs = name.replace("undesirable", "rejected").replace("desirable", "chosen")
        assert value.item() == pytest.approx(logged[theirs][0], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "label_smoothing"),
    [("cpo", 0.0), ("cpo", 0.1), ("simpo", 0.0), ("simpo", 0.1), ("hinge", 0.0), ("ipo", 0.0)],
)
def test_contrastive_cpo_trainer(name, label_smoothing):
    """Their hinge and ipo, without a reference, are ours with a reference of zeros."""
    cpo = pytest.importorskip("trl.experimental.cpo", reason="this trl has no CPOTrainer")
    g = torch.Generator().manual_seed(3)
    _, mask, _, lengths = draw(2 * ROWS)
    ids = torch.randint(0, 11, mask.shape, generator=g)
    logits = torch.randn(*mask.shape, 11, generator=g, dtype=torch.float64)
    alpha = 0.7 if name in ("cpo", "simpo") else 0.0
    light = trainer(
        loss_type={"cpo": "sigmoid"}.get(name, name),
        label_smoothing=label_smoothing,
        simpo_gamma=0.5 * BETA,
        cpo_alpha=alpha,
        alpha=0.0,
        is_encoder_decoder=False,
        pad_token_id=0,
        concatenated_inputs=cpo.CPOTrainer.concatenated_inputs,
        get_batch_logps=cpo.CPOTrainer.get_batch_logps,
    )
    light.cpo_loss = lambda *log_probs: cpo.CPOTrainer.cpo_loss(light, *log_probs)
    light.concatenated_forward = lambda model, batch: cpo.CPOTrainer.concatenated_forward(light, model, batch)
    batch = {}
    for part, rows in (("chosen", slice(0, ROWS)), ("rejected", slice(ROWS, None))):
        batch[f"{part}_input_ids"] = ids[rows]
        batch[f"{part}_attention_mask"] = torch.ones_like(ids[rows])
        batch[f"{part}_labels"] = ids[rows].masked_fill(mask[rows] == 0, -100)
    model = Model(SimpleNamespace(logits=logits))
    expected, logged = cpo.CPOTrainer.get_batch_loss_metrics(light, model, batch)

    scores = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    log_probs = (scores * mask[:, 1:]).sum(1)
    # TRL adds the NLL to every loss; ours has it in cpo and as "sft" beside the others. Its hinge and ipo know no lengths
    # except that ipo averages over tokens.
    names, weights = (name, [1.0]) if name in ("cpo", "hinge", "ipo") else ([name, "sft"], [1.0, alpha])
    loss = PreferenceLoss(
        names,
        weights,
        beta=BETA,
        label_smoothing=label_smoothing,
        gamma_ratio=0.5,
        cpo_alpha=alpha,
        nll_over="batch",
    )
    completions = Completions(log_probs, lengths, torch.zeros_like(log_probs))
    parts = loss(completions, pairs=PAIRS)
    torch.testing.assert_close(parts.loss_sum / parts.units, expected, rtol=1e-6, atol=1e-6)
    if name in ("cpo", "simpo"):
        found = means(preference_metrics(loss, completions, pairs=PAIRS))
        for key in ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"):
            assert found[key].item() == pytest.approx(logged[key], rel=1e-6)


@pytest.mark.parametrize("margin", [None, 0.4])
@pytest.mark.parametrize("centring", [None, 0.01])
def test_reward_trainer(margin, centring):
    from trl import RewardTrainer

    rewards = torch.randn(2 * ROWS, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    light = trainer(args=SimpleNamespace(center_rewards_coefficient=centring))
    inputs = {"attention_mask": torch.ones(2 * ROWS, 3)}
    margins = None if margin is None else margin * torch.arange(ROWS, dtype=torch.float64)
    if margins is not None:
        inputs["margin"] = margins
    expected = RewardTrainer.compute_loss(light, Model(SimpleNamespace(logits=rewards[:, None])), inputs)
    parts = RewardLoss(centring=centring or 0.0)(rewards, PAIRS, margin=margins)
    torch.testing.assert_close(parts.loss_sum / parts.units, expected, rtol=1e-6, atol=1e-6)

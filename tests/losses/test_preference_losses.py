"""PreferenceLoss as a whole: gradients, extreme values, shared completions, sums, weights, refusals."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch

from fulgurite.losses import PREFERENCE_LOSSES, Completions, PreferenceLoss

PAIRED = [name for name in PREFERENCE_LOSSES if PreferenceLoss(name).kind == "pairs"]
FREE = ["simpo", "cpo", "sft"]


def draw(count=6, dtype=torch.float64, seed=0, spread=8.0):
    g = torch.Generator().manual_seed(seed)
    reference = -40 * torch.rand(count, generator=g, dtype=torch.float64) - 5
    log_probs = reference + spread * torch.randn(count, generator=g, dtype=torch.float64)
    lengths = torch.randint(1, 30, (count,), generator=g)
    return log_probs.to(dtype), lengths, reference.to(dtype)


def arguments(kind, count=6):
    """Data of each kind over `count` completions."""
    if kind == "pairs":
        return {"pairs": torch.tensor([[0, 1], [0, 2], [3, 2], [4, 5]])}
    if kind == "labels":
        return {"desirable": torch.arange(count) % 3 == 0, "kl": torch.tensor(0.7)}
    return {"group": torch.tensor([1, 0, 1, 0, 1, -1]), "scores": torch.tensor([3.0, 1.0, 2.0, 4.0, 3.5, 9.0])}


def options(name):
    found = {"beta": 0.3, "temperature": 0.8, "desirable_weight": 1.33}
    return found | ({"label_smoothing": 0.2} if name in ("cdpo", "robust", "simpo", "cpo") else {})


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_gradient_equals_finite_differences(name):
    loss = PreferenceLoss(name, **options(name))
    log_probs, lengths, reference = draw()
    given = arguments(loss.kind)

    def total(values):
        return loss(Completions(values, lengths, reference), **given).losses

    assert torch.autograd.gradcheck(total, log_probs.requires_grad_(), atol=1e-8, rtol=1e-6)
    gradient = torch.autograd.grad(total(log_probs).sum(), log_probs)[0]
    assert gradient.abs().max() > 0.01


@pytest.mark.parametrize("scale", [1e4, -1e4])
@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_extreme_log_ratios_stay_finite_and_right(name, scale):
    """float32 at log-ratios of ±1e4 (rewards of ±1e3 and ±1e4) against float64; a log(sigmoid) would be infinite here."""
    for beta in (0.1, 1.0):
        loss = PreferenceLoss(name, **(options(name) | {"beta": beta}))
        given = arguments(loss.kind)
        found = []
        for dtype in (torch.float32, torch.float64):
            log_probs = torch.tensor([scale, -scale, 3.0, scale, -scale, 1.0], dtype=dtype, requires_grad=True)
            parts = loss(Completions(log_probs, torch.full((6,), 3), torch.zeros(6, dtype=dtype)), **given)
            parts.loss_sum.backward()
            found.append((parts.losses.detach().double(), log_probs.grad.double()))
        (narrow, narrow_grad), (wide, wide_grad) = found
        assert narrow.isfinite().all() and narrow_grad.isfinite().all()
        torch.testing.assert_close(narrow, wide, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(narrow_grad, wide_grad, rtol=1e-5, atol=1e-6)


def test_small_kto_losses_keep_their_digits():
    """1 − σ(40) is 0 in float32, σ(−40) is not."""
    parts = PreferenceLoss("kto", beta=1.0)(
        Completions(torch.tensor([40.0]), torch.tensor([4]), torch.zeros(1)),
        desirable=torch.tensor([True]),
        kl=torch.tensor(0.0),
    )
    assert parts.loss_sum.item() == pytest.approx(4.248354e-18, rel=1e-4, abs=0)


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_half_precision_is_widened_before_any_difference(name):
    loss = PreferenceLoss(name, **options(name))
    log_probs, lengths, reference = draw(dtype=torch.bfloat16)
    given = arguments(loss.kind)
    half = loss(Completions(log_probs, lengths, reference), **given)
    full = loss(Completions(log_probs.float(), lengths, reference.float()), **given)
    assert half.losses.dtype == torch.float32
    assert torch.equal(half.losses, full.losses)
    assert loss(Completions(log_probs.double(), lengths, reference.double()), **given).losses.dtype == torch.float64


@pytest.mark.parametrize("name", PAIRED)
def test_shared_completions_equal_copies(name):
    """Pairs that point into one set of completions equal pairs that own theirs, gradients added up."""
    loss = PreferenceLoss(name, **options(name))
    log_probs, lengths, reference = draw()
    pairs = arguments("pairs")["pairs"]
    shared = log_probs.clone().requires_grad_()
    loss(Completions(shared, lengths, reference), pairs=pairs).loss_sum.backward()
    flat = pairs.flatten()
    own = log_probs[flat].clone().requires_grad_()
    own_pairs = torch.arange(flat.numel()).view(-1, 2)
    loss(Completions(own, lengths[flat], reference[flat]), pairs=own_pairs).loss_sum.backward()
    summed = torch.zeros_like(log_probs).index_add(0, flat, own.grad)
    torch.testing.assert_close(shared.grad, summed)


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_weights_multiply_and_are_not_renormalised(name):
    loss = PreferenceLoss(name, **options(name))
    given = arguments(loss.kind)
    plain = loss(Completions(*draw()), **given)
    weight = torch.linspace(0, 3, plain.losses.numel())
    weighed = loss(Completions(*draw()), **given, weight=weight)
    torch.testing.assert_close(weighed.losses, plain.losses * weight)
    torch.testing.assert_close(weighed.loss_sum, (plain.losses * weight).sum())
    assert weighed.units.item() == plain.units.item() == plain.losses.numel()
    assert weighed.units.dtype == torch.int64


def test_sum_of_losses():
    completions, pairs = Completions(*draw()), arguments("pairs")["pairs"]
    both = PreferenceLoss(["dpo", "sft"], weights=[1, 0.2])(completions, pairs=pairs).losses
    apart = [PreferenceLoss(name)(completions, pairs=pairs).losses for name in ("dpo", "sft")]
    torch.testing.assert_close(both, apart[0] + 0.2 * apart[1])
    groups = arguments("groups")
    both = PreferenceLoss(("nca_kway", "infonca"), temperature=1.0)(completions, **groups).losses
    apart = [PreferenceLoss(name, temperature=1.0)(completions, **groups).losses for name in ("nca_kway", "infonca")]
    torch.testing.assert_close(both, apart[0] + apart[1])


def test_splitting_a_batch_changes_nothing():
    """Sum over units divided by all units: two uneven micro-batches equal one batch."""
    loss, completions = PreferenceLoss(["dpo", "cpo"], [1, 0.5]), Completions(*draw())
    pairs = arguments("pairs")["pairs"]
    whole = loss(completions, pairs=pairs)
    first, second = loss(completions, pairs=pairs[:3]), loss(completions, pairs=pairs[3:])
    torch.testing.assert_close(first.loss_sum + second.loss_sum, whole.loss_sum)
    assert first.units + second.units == whole.units


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
@pytest.mark.parametrize("nll_over", ["completion", "batch"])
def test_no_unit_gives_zero_with_a_zero_gradient(name, nll_over):
    loss = PreferenceLoss(name, nll_over=nll_over)
    log_probs, lengths, reference = draw()
    nothing = {
        "pairs": {"pairs": torch.zeros(0, 2, dtype=torch.int64)},
        "labels": {
            "desirable": torch.zeros(0, dtype=torch.bool),
            "kl": torch.tensor(0.0),
            "examples": torch.zeros(0, dtype=torch.int64),
        },
        "groups": {"group": torch.full((6,), -1), "scores": torch.zeros(6)},
    }[loss.kind]
    parts = loss(Completions(log_probs.requires_grad_(), lengths, reference), **nothing)
    parts.loss_sum.backward()
    assert parts.loss_sum.item() == 0 and parts.units.item() == 0
    assert torch.equal(log_probs.grad, torch.zeros(6, dtype=torch.float64))


def test_no_gradient_reaches_the_reference():
    log_probs, lengths, reference = draw()
    reference.requires_grad_()
    loss = PreferenceLoss("dpo")
    parts = loss(Completions(log_probs.requires_grad_(), lengths, reference), **arguments("pairs"))
    parts.loss_sum.backward()
    assert reference.grad is None and log_probs.grad is not None


@pytest.mark.parametrize("name", ["dpo", "cdpo", "robust", "hinge", "simpo", "cpo"])
def test_margin_moves_the_difference(name):
    """A margin m on Δ equals a reference that favours the chosen one by m."""
    loss = PreferenceLoss(name, **options(name))
    log_probs, lengths, reference = draw(2)
    pairs, margin = torch.tensor([[0, 1]]), torch.tensor([0.4])
    found = loss(Completions(log_probs, lengths, reference), pairs=pairs, margin=margin).losses
    shift = torch.tensor([0.0, 0.4 / loss.beta], dtype=torch.float64)
    shift = shift * lengths if name == "simpo" else shift
    moved = loss(Completions(log_probs + shift, lengths, reference), pairs=pairs).losses
    torch.testing.assert_close(found, moved)


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_kind_and_reference(name):
    loss = PreferenceLoss(name)
    assert loss.needs_reference == (name not in FREE)
    assert loss.kind == {"kto": "labels", "nca_kway": "groups", "infonca": "groups"}.get(name, "pairs")
    log_probs, lengths, _ = draw()
    if loss.needs_reference:
        with pytest.raises(ValueError, match=f"PreferenceLoss: {name} compares with a reference"):
            loss(Completions(log_probs, lengths), **arguments(loss.kind))
    else:
        assert loss(Completions(log_probs, lengths), **arguments(loss.kind)).losses.isfinite().all()


def test_rewards_by_loss():
    log_probs, lengths, reference = draw()
    completions = Completions(log_probs, lengths, reference)
    torch.testing.assert_close(PreferenceLoss(["sft", "dpo"]).rewards(completions), 0.1 * (log_probs - reference))
    torch.testing.assert_close(PreferenceLoss("cpo").rewards(completions), 0.1 * log_probs)
    torch.testing.assert_close(PreferenceLoss("simpo", beta=2.0).rewards(completions), 2 * log_probs / lengths)


def test_options_are_frozen_and_travel():
    loss = PreferenceLoss(["dpo", "sft"], weights=[1, 0.2])
    with pytest.raises(dataclasses.FrozenInstanceError):
        loss.beta = 0.5
    assert pickle.loads(pickle.dumps(loss)) == loss == dataclasses.replace(loss)
    assert hash(loss) == hash(PreferenceLoss(("dpo", "sft"), weights=(1.0, 0.2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": "dop"}, "no loss is called 'dop'; did you mean 'dpo'"),
        ({"names": "sigmoid"}, "'sigmoid'; did you mean dpo"),
        ({"names": "nca_pair"}, "'nca_pair'; did you mean nca"),
        ({"names": "xyz"}, r"'xyz'; There are dpo, cdpo"),
        ({"names": []}, "give at least one loss, and each loss once"),
        ({"names": ["dpo", "dpo"]}, "give at least one loss, and each loss once"),
        ({"names": ["dpo", "kto"]}, r"dpo \(pairs\), kto \(labels\) read different kinds"),
        ({"names": ["sft", "infonca"]}, r"sft \(pairs\), infonca \(groups\)"),
        ({"names": ["dpo", "sft"], "weights": [1]}, r"weights \[1.0\] for \['dpo', 'sft'\]"),
        ({"names": "dpo", "weights": [-1]}, "0 or more"),
        ({"names": "dpo", "weights": [float("nan")]}, "finite"),
        ({"names": "dpo", "beta": 0.0}, "beta is 0.0"),
        ({"names": "dpo", "beta": float("nan")}, "beta is nan"),
        ({"names": "infonca", "temperature": 0.0}, "temperature is 0.0"),
        ({"names": "robust", "label_smoothing": 0.5}, "label_smoothing is 0.5"),
        ({"names": "cdpo", "label_smoothing": -0.1}, "label_smoothing is -0.1"),
        ({"names": "dpo", "label_smoothing": 0.1}, "which dpo does not use; choose cdpo or robust"),
        ({"names": "kto", "desirable_weight": -1.0}, "desirable_weight is -1.0"),
        ({"names": "sft", "nll_over": "tokens"}, "nll_over is 'tokens'"),
    ],
)
def test_options_are_refused_with_a_reason(arguments, message):
    with pytest.raises(ValueError, match=message):
        PreferenceLoss(**arguments)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("dpo", {}, "dpo was given nothing; it needs pairs and may have margin"),
        ("dpo", arguments("labels"), "dpo was given desirable, kl; it needs pairs"),
        ("dpo", arguments("pairs") | {"kl": torch.tensor(0.0)}, "dpo was given kl, pairs"),
        ("kto", {"desirable": torch.ones(6, dtype=torch.bool)}, "kto was given desirable; it needs desirable and kl"),
        ("infonca", {"group": torch.zeros(6, dtype=torch.int64)}, "it needs group and scores"),
        ("dpo", {"pairs": torch.tensor([[0.0, 1.0]])}, r"\(P, 2\) int64 is needed"),
        ("dpo", {"pairs": torch.tensor([0, 1])}, r"\(P, 2\) int64 is needed"),
        ("dpo", {"pairs": torch.tensor([[0, -1]])}, "index -1"),
        ("dpo", arguments("pairs") | {"margin": torch.zeros(3)}, r"margin of shape \(3,\)"),
        ("dpo", arguments("pairs") | {"weight": torch.ones(3)}, r"weight of shape \(3,\)"),
        ("dpo", arguments("pairs") | {"weight": torch.ones(4, 1)}, r"weight of shape \(4, 1\)"),
        ("nca", arguments("pairs") | {"margin": torch.zeros(4)}, "and nca cannot use it"),
        ("sft", arguments("pairs") | {"margin": torch.zeros(4)}, "and sft cannot use it"),
        ("kto", {"desirable": torch.ones(6), "kl": torch.tensor(0.0)}, "float32"),
        ("kto", {"desirable": torch.ones(5, dtype=torch.bool), "kl": torch.tensor(0.0)}, r"desirable of shape \(5,\)"),
        ("kto", {"desirable": torch.ones(6, dtype=torch.bool), "kl": torch.zeros(6)}, r"kl of shape \(6,\)"),
        ("infonca", {"group": torch.zeros(6, dtype=torch.int64), "scores": torch.zeros(5)}, r"scores of shape \(5,\)"),
    ],
)
def test_data_is_refused_with_a_reason(name, given, message):
    with pytest.raises(ValueError, match=message):
        PreferenceLoss(name)(Completions(*draw()), **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.zeros(2, 3), torch.ones(2)), r"log_probs of shape \(2, 3\)"),
        ((torch.zeros(2, dtype=torch.int64), torch.ones(2)), "int64"),
        ((torch.zeros(2), torch.ones(3)), r"lengths of shape \(3,\)"),
        ((torch.zeros(2), torch.ones(2), torch.zeros(2, 1)), r"reference of shape \(2, 1\)"),
    ],
)
def test_completions_are_refused_with_a_reason(given, message):
    with pytest.raises(ValueError, match=message):
        Completions(*given)

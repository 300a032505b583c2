"""fused_log_probs and its kin against their twins in float64, and what they promise."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from fulgurite.kernels import fused_log_probs, fused_logits, fused_token_scores, linear_log_probs, reference
from fulgurite.kernels.log_probs import blocks as log_probs_blocks
from tests.kernels.fusion.fused_cases import HEADS, assert_as_exact_as_torch, call, make, run
from tests.kernels.log_probs.log_probs_cases import SLACK

# Older versions cannot trace what these functions look at (sizes of plans, numbers of targets).
compiles = pytest.mark.skipif(
    tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 13),
    reason="torch.compile is tested from torch 2.13 on",
)


BLENDS = pytest.mark.parametrize("blend", ["logits", "probs", "logprobs"])
DTYPES = pytest.mark.parametrize("dtype", list(SLACK), ids=str)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 8 x 16, so that small inputs take many of both, ragged at both ends."""
    from fulgurite.kernels.fusion import blocks as fused_blocks

    for name, value in {"_TILE_CPU": 128, "_HEIGHT_CPU": 8, "_KEPT": 300, "_MIN_HEIGHT": 3, "_MIN_WIDTH": 16}.items():
        for module in (log_probs_blocks, fused_blocks):
            monkeypatch.setattr(module, name, value, raising=module is log_probs_blocks)


@BLENDS
@DTYPES
@pytest.mark.parametrize("head", list(HEADS))
def test_forward_and_gradients(dtype, head, blend, small_tiles, poisoned_memory):
    arguments = make((2, 9, 5), (70, 81, 75), dtype, blend=blend, **HEADS[head])
    assert_as_exact_as_torch(fused_log_probs, arguments, dtype)


@BLENDS
@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize(("shape", "vocabulary"), [((13, 7), 31), ((1, 8), 16), ((3,), 5)], ids=str)
def test_any_number_of_specialists(number, shape, vocabulary, blend, small_tiles):
    assert_as_exact_as_torch(
        fused_log_probs, make(shape, vocabulary, torch.float64, number=number, blend=blend), torch.float64
    )


@BLENDS
@DTYPES
@pytest.mark.parametrize("head", ["plain", "bias", "scale"])
def test_one_head_for_all(dtype, head, blend, small_tiles):
    options = {**HEADS[head]}
    if head == "scale":
        options["logit_scale"] = (0.4,) * 4
    arguments = make((2, 9, 5), 70, dtype, shared=True, blend=blend, **options)
    # The blended hidden states are rounded once more than the twin's logits are.
    assert_as_exact_as_torch(fused_log_probs, arguments, dtype, 2 * SLACK[dtype])


def test_one_capped_head_for_all_goes_head_by_head(small_tiles):
    arguments = make((11, 5), 70, torch.float64, shared=True, softcap=(3.0,) * 3)
    assert_as_exact_as_torch(fused_log_probs, arguments, torch.float64)


_KINDS = ("hidden", "weight", "gate_scores")


@BLENDS
@pytest.mark.parametrize("shared", [False, True], ids=["heads", "one head"])
@pytest.mark.parametrize("kinds", [k for n in (0, 1, 2, 3) for k in itertools.combinations(_KINDS, n)], ids="+".join)
def test_only_what_is_wanted(kinds, shared, blend, small_tiles):
    wanted = [f"{kind}{i}" for kind in kinds for i in range(3)] + ["gate_scores"] * ("gate_scores" in kinds)
    arguments = make((20, 6), 40, torch.float64, shared=shared, blend=blend, wanted=wanted)
    names = {f"d_{name}" for name in wanted if name in arguments["named"]}
    assert set(run(fused_log_probs, arguments)) == {"out", *names}
    assert_as_exact_as_torch(fused_log_probs, arguments, torch.float64)


@pytest.mark.parametrize(
    "wanted",
    [
        ("hidden1",),
        ("weight2",),
        ("hidden0", "weight1", "gate_scores"),
        ("bias1",),
        ("lora_a0", "gate1"),
        ("lora_b2", "hidden2"),
    ],
    ids=str,
)
def test_of_some_specialists_only(wanted, small_tiles):
    arguments = make((20, 6), 40, torch.float64, wanted=wanted, bias=True, rank=2)
    assert set(run(fused_log_probs, arguments)) == {"out", *(f"d_{name}" for name in wanted)}
    assert_as_exact_as_torch(fused_log_probs, arguments, torch.float64)


@pytest.mark.parametrize("step", [0.2, 3.0, 40.0])
@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
def test_logits_that_climb_through_the_vocabulary(step, falling, small_tiles):
    """The reference lags, is raised, and what was summed before is rescaled; for some tokens only."""
    arguments = make((20, 6), 90, torch.float32, bias=True)
    slope = torch.arange(90.0) * step / 16
    with torch.no_grad():
        arguments["named"]["bias1"].copy_(slope.flip(0) if falling else slope)
        arguments["targets"][1::2] = torch.arange(10)
    # Logits of 225 are rounded to 8e-6 each, in another order than the twin's: 3e-6 beyond its error was seen.
    assert_as_exact_as_torch(fused_log_probs, arguments, torch.float32, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ragged_sizes_in_tiles_of_their_real_size(dtype):
    arguments = make((600, 37), (2503, 2600, 2503), dtype, number=3)
    assert_as_exact_as_torch(fused_log_probs, arguments, dtype, 2e-5 if dtype == torch.float32 else None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_confident_token_keeps_its_gradients(dtype):
    """p is 1 − 1e-4: rounded to bf16 it is 1, and l_e(y) − E_p[l_e] as a difference of sums would be noise."""
    weights = [torch.tensor([[9.0, 0.5], [0.0, 0.25], [s, 0.125]], dtype=dtype) for s in (0.0, 1.0)]
    hiddens = [torch.tensor([[1.0, s]], dtype=dtype, requires_grad=True) for s in (0.0, 0.5)]
    gate = torch.tensor([[0.5, -0.25]], requires_grad=True)
    fused_log_probs(hiddens, weights, gate, torch.tensor([0])).sum().backward()
    wide = [h.detach().double().requires_grad_() for h in hiddens]
    scores = gate.detach().double().requires_grad_()
    reference.fused_log_probs(wide, [w.double() for w in weights], scores, torch.tensor([0])).sum().backward()
    for mine, exact in zip([*hiddens, gate], [*wide, scores], strict=True):
        rtol = max(5e-6, 2 * torch.finfo(mine.dtype).eps)
        torch.testing.assert_close(mine.grad.double(), exact.grad, rtol=rtol, atol=0)


@BLENDS
@pytest.mark.parametrize("shared", [False, True], ids=["heads", "one head"])
def test_ignored_tokens_may_hold_nan(blend, shared):
    arguments = make((20, 6), 40, torch.float64, shared=shared, blend=blend)
    expected = run(fused_log_probs, arguments)
    ignored = arguments["targets"] == -100
    assert ignored.any()
    with torch.no_grad():
        for name in ("hidden0", "hidden2", "gate_scores"):
            arguments["named"][name][ignored] = torch.nan
    found = run(fused_log_probs, arguments)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
    assert not found["out"][ignored].any()


@BLENDS
def test_no_supervised_token(blend):
    arguments = make((5, 6), 9, torch.float32, blend=blend)
    arguments["targets"] = torch.full((5,), -100)
    assert all(not value.any() for value in run(fused_log_probs, arguments).values())


@BLENDS
def test_equal_specialists_are_the_single_model(blend):
    one = make((12, 6), 40, torch.float64, number=1)
    hidden, weight = one["named"]["hidden0"], one["named"]["weight0"]
    gate = torch.randn(12, 3, dtype=torch.float64)
    found = fused_log_probs([hidden] * 3, [weight, weight.clone(), weight.clone()], gate, one["targets"], blend=blend)
    torch.testing.assert_close(found, linear_log_probs(hidden, weight, one["targets"]))


@BLENDS
@pytest.mark.parametrize("score", [-1e4, -torch.inf])
def test_a_one_hot_gate_is_that_specialist(score, blend):
    arguments = make((12, 6), 40, torch.float64, blend=blend)
    named = arguments["named"]
    gate = torch.full((12, 3), score, dtype=torch.float64)
    gate[:, 1] = 0
    found = call(fused_log_probs, arguments, {**named, "gate_scores": gate})
    torch.testing.assert_close(found, linear_log_probs(named["hidden1"], named["weight1"], arguments["targets"]))


@BLENDS
def test_permuting_specialists_permutes_the_gate_only(blend):
    arguments = make((12, 6), 40, torch.float64, blend=blend)
    order, named = [2, 0, 1], arguments["named"]
    turned = {"gate_scores": named["gate_scores"][:, order]}
    turned |= {f"{kind}{i}": named[f"{kind}{j}"] for i, j in enumerate(order) for kind in ("hidden", "weight")}
    first, second = run(fused_log_probs, arguments), run(fused_log_probs, {**arguments, "named": {
        n: t.detach().requires_grad_() for n, t in turned.items()}})  # fmt: skip
    torch.testing.assert_close(second["out"], first["out"])
    torch.testing.assert_close(second["d_gate_scores"], first["d_gate_scores"][:, order])
    torch.testing.assert_close(second["d_hidden1"], first["d_hidden0"])


def test_the_blends_order_themselves():
    """Jensen: Σ w log p_e is below log Σ w p_e; and below `logits`, whose normaliser is a geometric mean's sum, at most 1."""
    arguments = make((40, 6), 40, torch.float64)
    found = {blend: call(fused_log_probs, {**arguments, "blend": blend}) for blend in ("logits", "probs", "logprobs")}
    kept = arguments["targets"] != -100
    assert (found["logprobs"] < found["probs"])[kept].all() and (found["logprobs"] < found["logits"])[kept].all()
    scores = run(fused_log_probs, {**arguments, "blend": "logprobs"})["d_gate_scores"]
    torch.testing.assert_close(scores.sum(-1), torch.zeros(40, dtype=torch.float64))


class _Products(TorchDispatchMode):
    """Counts matrix products and the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.products, self.largest = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.products += function._schema.name in ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm")
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            self.largest = max(self.largest, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
        return out


@BLENDS
def test_the_gate_alone_takes_no_backward_product_and_no_row_of_logits(blend):
    arguments = make((256, 16), 40000, torch.float32, blend=blend, wanted=("gate_scores",))
    with _Products() as forward:
        out = call(fused_log_probs, arguments)
    with _Products() as backward:
        out.sum().backward()
    assert backward.products == 0 and arguments["named"]["gate_scores"].grad.any()
    assert forward.products > 0 and forward.largest < 256 * 40000 / 2


@BLENDS
def test_under_autocast_and_in_bfloat16_statistics_are_float32(blend):
    arguments = make((20, 6), 40, torch.float32, blend=blend)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(fused_log_probs, arguments)
    assert found["out"].dtype == torch.float32 and found["d_weight1"].dtype == torch.float32
    exact = run(reference.fused_log_probs, arguments, torch.float64)
    for name, value in exact.items():
        assert (found[name] - value).abs().max() <= 0.02 * value.abs().max(), name


@pytest.mark.parametrize("kinds", [("gate_scores",), ("gate_scores", "hidden1"), None], ids=str)
def test_checkpointing_and_a_second_backward(kinds):
    arguments = make((20, 6), 40, torch.float64, wanted=kinds)
    expected = run(fused_log_probs, arguments)
    again = lambda *args, **more: checkpoint(fused_log_probs, *args, use_reentrant=False, **more)  # noqa: E731
    for name, value in run(again, arguments).items():
        torch.testing.assert_close(value, expected[name], msg=name)
    out = call(fused_log_probs, arguments)
    out.sum().backward(retain_graph=True)
    first = arguments["named"]["gate_scores"].grad.clone()
    out.sum().backward()
    torch.testing.assert_close(arguments["named"]["gate_scores"].grad, 2 * first)


@pytest.mark.slow
@compiles
@pytest.mark.parametrize("shared", [False, True], ids=["heads", "one head"])
def test_under_torch_compile(shared):
    torch._dynamo.reset()
    arguments = make((9, 6), 40, torch.float32, shared=shared)
    compiled = torch.compile(lambda *args, **more: fused_log_probs(*args, **more), backend="aot_eager")
    found, expected = run(compiled, arguments), run(fused_log_probs, arguments)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name, rtol=1e-5, atol=1e-6)
    torch._dynamo.reset()


@BLENDS
@pytest.mark.parametrize(
    ("head", "shared"), [("plain", True), ("plain", False), ("softcap", False), ("lora", False)], ids=str
)
def test_scores_and_logits(head, shared, blend, monkeypatch):
    monkeypatch.setattr(log_probs_blocks, "_TILE_CPU", 300)
    vocabularies = 70 if shared else (70, 81, 75)
    arguments = make((40, 6), vocabularies, torch.float64, shared=shared, blend=blend, **HEADS[head])
    logits = call(lambda h, w, g, _, **more: reference.fused_logits(h, w, g, **more), arguments).detach()
    arguments["targets"][::3] = logits.argmax(-1)[::3]
    found, exact = call(fused_token_scores, arguments), call(reference.fused_token_scores, arguments)
    assert torch.equal(found.correct, exact.correct) and found.correct.any() and not found.correct.all()
    torch.testing.assert_close(tuple(found[::2]), tuple(exact[::2]), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.gate_weights, exact.gate_weights)
    torch.testing.assert_close(found.gate_weights.sum(), torch.ones((), dtype=torch.float64))
    mine = call(lambda h, w, g, _, **more: fused_logits(h, w, g, **more), arguments)
    assert mine.shape == (40, 70) and not mine.requires_grad
    torch.testing.assert_close(mine.log_softmax(-1), logits.log_softmax(-1))


@BLENDS
@pytest.mark.parametrize("place", ["hidden1", "weight1", "gate_scores"])
def test_who_yields_nan_is_named(place, blend):
    arguments = make((20, 6), 40, torch.float32, blend=blend, names=("text", "code", "maths"))
    arguments["targets"][3] = 7
    with torch.no_grad():
        arguments["named"][place][3] = torch.nan
    said = {
        "hidden1": r"the hidden states of code are not finite at 1 of \d+ supervised tokens",
        "weight1": r"the logits of code are not finite at \d+ tokens though its hidden states are",
        "gate_scores": r"gate_scores are NaN at 1 of",
    }
    with pytest.raises(ValueError, match=said[place]):
        call(fused_log_probs, arguments)


def test_what_does_not_fit_is_refused_by_name():
    good = make((20, 6), (40, 45, 40), torch.float32)
    h, w = [[good["named"][f"{kind}{i}"] for i in range(3)] for kind in ("hidden", "weight")]
    gate, targets = good["named"]["gate_scores"], good["targets"]
    beyond = targets.masked_fill(targets == targets[targets >= 0][0], 42)
    cases = [
        ((h[:2], w, gate, targets), {}, "2 hidden states, 3 weights"),
        (([], [], gate[:, :0], targets), {}, "at least one specialist"),
        ((h, w, gate[:, :2], targets), {}, r"gate_scores are \(20, 2\).*want \(20, 3\)"),
        ((h, w, gate, beyond), {}, "target 42.*allowed are 0 to 39, the rows that all specialists' heads have"),
        ((h, w, gate, targets), {"blend": "mean"}, "blend='mean'; allowed are 'logits', 'probs', 'logprobs'"),
        ((h, w, gate, targets), {"options": {"cap": 3}}, "specialist 0's head has the option 'cap'"),
        (
            (h, [w[0], w[1].double(), w[2]], gate, targets),
            {},
            "specialist 1: hidden is torch.float32 and weight is torch.float64",
        ),
        ((h, [w[0], w[0], w[2]], gate, targets), {}, r"specialist 1: hidden \(20, 7\) does not fit weight \(40, 6\)"),
        (([h[0].double(), *h[1:]], w, gate, targets), {}, "want one dtype for all specialists"),
    ]
    for args, more, said in cases:
        with pytest.raises(ValueError, match=said):
            fused_log_probs(*args, **more)

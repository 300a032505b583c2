"""linear_log_probs, linear_cross_entropy and linear_token_scores against their twins in float64, and what they promise."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from fulgurite.kernels import linear_cross_entropy, linear_log_probs, linear_token_scores, reference, use_backend
from fulgurite.kernels.log_probs import blocks as log_probs_blocks
from tests.kernels.log_probs.log_probs_cases import HEADS, SLACK, assert_as_exact_as_torch, make, run

BOTH = pytest.mark.parametrize("function", [linear_log_probs, linear_cross_entropy], ids=lambda f: f.__name__)
DTYPES = pytest.mark.parametrize("dtype", list(SLACK), ids=str)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 8 x 16, so that small inputs take many of both, ragged at both ends."""
    for name, value in {"_TILE_CPU": 128, "_HEIGHT_CPU": 8, "_KEPT": 300, "_MIN_HEIGHT": 3, "_MIN_WIDTH": 16}.items():
        monkeypatch.setattr(log_probs_blocks, name, value)


@BOTH
@DTYPES
@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize(("shape", "vocabulary"), [((13, 7), 31), ((2, 9, 5), 70), ((1, 8), 16)], ids=str)
def test_forward_and_gradients(function, dtype, head, shape, vocabulary, small_tiles, poisoned_memory):
    assert_as_exact_as_torch(function, make(shape, vocabulary, dtype, **HEADS[head]), dtype)


@BOTH
@pytest.mark.parametrize("head", ["plain", "softcap"])
def test_ragged_sizes_in_tiles_of_their_real_size(function, head):
    arguments = make((1100, 37), 2503, torch.float32, **HEADS[head])
    exact = run(getattr(reference, function.__name__), arguments, torch.float64)
    for name, value in run(function, arguments).items():
        assert (value - exact[name]).abs().max() / exact[name].abs().max() < 2e-5, name


@BOTH
@pytest.mark.parametrize(
    "wanted",
    [("hidden",), ("weight",), ("bias",), ("lora_a",), ("gate", "lora_b"), ("hidden", "lora_a"), ("hidden", "weight")],
    ids=str,
)
def test_only_what_is_needed(function, wanted, small_tiles):
    arguments = make((20, 6), 40, torch.float64, rank=2, gate=True, bias=True)
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            value.requires_grad_(name in wanted)
    assert set(run(function, arguments)) == {"out", *(f"d_{name}" for name in wanted)}
    assert_as_exact_as_torch(function, arguments, torch.float64)


@pytest.mark.parametrize("step", [0.2, 3.0, 40.0])
@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
@BOTH
def test_logits_that_climb_through_the_vocabulary(function, step, falling, small_tiles):
    """The reference lags, is raised, and what was summed before is rescaled; for some tokens only."""
    arguments = make((20, 6), 90, torch.float32, bias=True)
    slope = torch.arange(90.0) * step / 16
    with torch.no_grad():
        arguments["bias"].copy_(slope.flip(0) if falling else slope)
        arguments["hidden"][::2] = 0
        arguments["targets"][1::2] = torch.arange(10)
    assert_as_exact_as_torch(function, arguments, torch.float32)
    found = linear_token_scores(**arguments)
    exact = reference.linear_token_scores(
        **{n: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for n, v in arguments.items()}
    )
    torch.testing.assert_close(found.entropy.double(), exact.entropy, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_confident_token_keeps_its_gradient(dtype):
    """p is 1 − 1e-4: rounded to bf16 it is 1, and softmax − onehot would be 0 at the target."""
    weight = torch.tensor([[9.0, 0.5], [0.0, 0.25], [0.0, 0.125]], dtype=dtype)
    hidden = torch.tensor([[1.0, 0.0]], dtype=dtype, requires_grad=True)
    targets = torch.tensor([0])
    linear_log_probs(hidden, weight, targets).backward(torch.ones(1))
    double = hidden.detach().double().requires_grad_()
    exact = reference.linear_log_probs(double, weight.double(), targets)
    exact.backward(torch.ones(1))
    torch.testing.assert_close(hidden.grad.double(), double.grad, rtol=max(2e-6, 2 * torch.finfo(dtype).eps), atol=0)
    found = linear_log_probs(hidden.detach(), weight, targets)
    torch.testing.assert_close(found.double(), exact.detach(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("lag", [0.0, 16.0])  # 0 is a GPU's and float16's
@pytest.mark.parametrize("head", list(HEADS))
def test_scores(head, lag, small_tiles, poisoned_memory, monkeypatch):
    monkeypatch.setattr(log_probs_blocks, "_LAG", lag)
    arguments = make((40, 6), 70, torch.float64, **HEADS[head])
    with torch.no_grad():  # every third target is made the most probable one
        logits = F.linear(arguments["hidden"], arguments["weight"])
        arguments["targets"][::3] = logits.argmax(-1)[::3]
    found, exact = linear_token_scores(**arguments), reference.linear_token_scores(**arguments)
    assert torch.equal(found.correct, exact.correct) and found.correct.any() and not found.correct.all()
    torch.testing.assert_close(found.log_probs, exact.log_probs)
    torch.testing.assert_close(found.entropy, exact.entropy, rtol=1e-10, atol=1e-12)
    assert not found.log_probs.requires_grad


def test_of_equal_logits_the_first_is_the_prediction(small_tiles):
    hidden, weight = torch.ones(4, 2), torch.zeros(50, 2)
    weight[[7, 20, 40]] = 1
    correct = linear_token_scores(hidden, weight, torch.tensor([7, 20, 40, 3])).correct
    assert correct.tolist() == [True, False, False, False]


def test_forbidden_columns_and_a_vocabulary_of_one():
    bias = torch.tensor([0.0, -torch.inf, 0.0])
    hidden = torch.zeros(2, 4, requires_grad=True)
    found = linear_log_probs(hidden, torch.ones(3, 4), torch.tensor([0, 2]), bias)
    torch.testing.assert_close(found, torch.full((2,), 0.5).log())
    found.sum().backward()
    assert torch.isfinite(hidden.grad).all()
    scores = linear_token_scores(hidden.detach(), torch.ones(3, 4), torch.tensor([0, 2]), bias)
    torch.testing.assert_close(scores.entropy, torch.full((2,), 2.0).log())
    alone = linear_log_probs(hidden, torch.ones(1, 4), torch.tensor([0, 0]))
    assert alone.tolist() == [0.0, 0.0]
    hidden.grad = None
    alone.sum().backward()
    assert torch.equal(hidden.grad, torch.zeros(2, 4))


@BOTH
def test_without_gradients_only_statistics_are_computed(function, monkeypatch):
    arguments = make((9, 6), 40, torch.float32)
    expected = function(**arguments).detach()
    monkeypatch.setattr(log_probs_blocks, "plus_product", None)
    with torch.no_grad():
        torch.testing.assert_close(function(**arguments), expected)


@BOTH
@pytest.mark.parametrize("rank", [0, 2])
def test_ignored_tokens_cost_nothing_and_may_be_nan(function, rank, small_tiles):
    arguments = make((20, 6), 40, torch.float64, rank=rank, gate=bool(rank))
    expected = run(function, arguments)
    ignored = arguments["targets"] == -100
    assert ignored.any()
    with torch.no_grad():
        arguments["hidden"][ignored] = torch.nan
    found = run(function, arguments)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
    assert not found["d_hidden"][ignored].any()
    if function is linear_log_probs:
        assert not found["out"][ignored].any()
    renamed = {**arguments, "targets": arguments["targets"].masked_fill(ignored, 39), "ignore_index": 39}
    assert not run(function, {**renamed, "targets": torch.full_like(arguments["targets"], 39)})["out"].any()


@BOTH
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("shape", [(5, 6), (0, 6), (2, 0, 6)], ids=str)
def test_no_supervised_token(function, trained, shape):
    arguments = make(shape, 9, torch.float32, rank=2, gate=True, bias=True, trained=trained)
    arguments["targets"] = torch.full_like(arguments["targets"], -100)
    found = run(function, arguments)
    assert set(found) >= {"out", "d_hidden"} and ("d_lora_b" in found) == trained
    assert all(not value.any() for value in found.values())
    assert found["out"].shape == (shape[:-1] if function is linear_log_probs else ())


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for part in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(part, torch.Tensor):
                self.numel = max(self.numel, part.numel())
        return out


@BOTH
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_tokens_times_vocabulary_is_never_there(function, trained, small_tiles):
    arguments = make((64, 4), 120, torch.float32, trained=trained)
    with Largest() as seen:
        run(function, arguments)
    assert seen.numel <= max(120 * 4, 3 * 120) < 64 * 120 / 8


@BOTH
def test_strided_inputs(function, small_tiles):
    arguments = make((9, 6), 40, torch.float64)
    strided = {**arguments, "hidden": torch.randn(6, 9, dtype=torch.float64).t().requires_grad_()}
    strided["weight"] = torch.randn(6, 40, dtype=torch.float64).t().requires_grad_()
    strided["targets"] = torch.stack((arguments["targets"],) * 2, 1)[:, 0]
    assert_as_exact_as_torch(function, strided, torch.float64)
    expanded = {**arguments, "hidden": torch.randn(1, 6, dtype=torch.float64).expand(9, 6)}
    torch.testing.assert_close(function(**expanded), getattr(reference, function.__name__)(**expanded))


@BOTH
def test_tied_embedding_and_hidden_used_twice(function):
    def grads(call):
        table = torch.randn(30, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        ids = torch.tensor([3, 7, 7, 29])
        hidden = F.embedding(ids, table).tanh()
        out = call(hidden, table, ids).sum() * 2 + call(hidden, table, ids.flip(0)).sum() + hidden.sum()
        return torch.autograd.grad(out, table)[0]

    torch.testing.assert_close(grads(function), grads(getattr(reference, function.__name__)))


@BOTH
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_a_retained_graph_gives_the_same_gradients_again(function, trained):
    arguments = make((9, 6), 40, torch.float64, trained=trained)
    leaves = [arguments["hidden"], arguments["weight"]][: 1 + trained]
    out = (function(**arguments) * 3).sum()
    first = torch.autograd.grad(out, leaves, retain_graph=True)
    second = torch.autograd.grad(out, leaves)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@BOTH
def test_a_second_derivative_is_refused(function):
    arguments = make((4, 6), 10, torch.float64)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad((function(**arguments) ** 2).sum(), arguments["hidden"], create_graph=True)


@BOTH
@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing(function, reentrant):
    def grads(wrapped):
        arguments = make((9, 6), 40, torch.float64)
        hidden, weight, targets = (arguments[n] for n in ("hidden", "weight", "targets"))
        call = lambda h, w: function(h.tanh(), w, targets).square()  # noqa: E731
        out = checkpoint(call, hidden, weight, use_reentrant=reentrant) if wrapped else call(hidden, weight)
        return torch.autograd.grad(out.sum(), (hidden, weight)) if not reentrant else _backward(out, hidden, weight)

    assert all(torch.equal(a, b) for a, b in zip(grads(False), grads(True), strict=True))


def _backward(out, *leaves):
    out.sum().backward()
    return [leaf.grad for leaf in leaves]


@BOTH
def test_autocast_casts_inside(function):
    arguments = make((16, 8), 40, torch.float32, rank=2, gate=True, bias=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(function, arguments)
    exact = run(getattr(reference, function.__name__), arguments, torch.float64)
    assert all(value.dtype == torch.float32 for value in found.values())
    for name, value in found.items():
        assert 0 < (value.double() - exact[name]).abs().max() / exact[name].abs().max() < 3e-2, name


def test_float32_adapter_beside_a_bf16_head_keeps_its_gate_gradient():
    arguments = make((300, 16), 200, torch.bfloat16, rank=4, gate=True, adapter=torch.float32)
    exact = run(reference.linear_log_probs, arguments, torch.float64)
    for name, value in run(linear_log_probs, arguments).items():
        assert (value.double() - exact[name]).abs().max() / exact[name].abs().max() < 2e-2, name


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_float16_gradients_are_not_lost_before_the_loss_scale(trained):
    """1/2000 of a probability of 1/5000 is below float16's smallest number; times 2^16 it is not."""
    arguments = make((2000, 4), 5000, torch.float16, trained=trained)
    arguments["hidden"].data.mul_(1e-3)
    wide = {
        n: v.detach().float().requires_grad_(v.requires_grad) if v.is_floating_point() else v
        for n, v in arguments.items()
    }
    for each in (arguments, wide):
        (linear_cross_entropy(**each) * 2**16).backward()
    for name in ("hidden", "weight")[: 1 + trained]:
        error = (arguments[name].grad.float() - wide[name].grad).norm() / wide[name].grad.norm()
        assert error < 2e-3, name


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
@BOTH
def test_compiles_without_graph_break(function, trained):
    torch._dynamo.reset()
    arguments = make((9, 6), 40, torch.float32, rank=2, gate=True, bias=True, softcap=4.0, trained=trained)
    compiled = torch.compile(lambda **named: function(**named), fullgraph=True, backend="aot_eager")
    found, expected = run(compiled, arguments), run(function, arguments)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
    torch._dynamo.reset()


def test_scores_compile_and_the_operator_behaves():
    from fulgurite.kernels.log_probs import autograd as log_probs_autograd

    torch._dynamo.reset()
    arguments = make((9, 6), 40, torch.float32)
    compiled = torch.compile(lambda **named: linear_token_scores(**named), fullgraph=True, backend="aot_eager")
    for one, other in zip(compiled(**arguments), linear_token_scores(**arguments), strict=True):
        assert torch.equal(one, other)
    torch._dynamo.reset()
    tensors = [arguments[n].detach() if n else None for n in ("hidden", "", "weight", "", "", "targets")]
    sample = (*tensors, None, None, None, None, -100, 1.0, None, [True, False, True, False, False], True)
    torch.library.opcheck(log_probs_autograd._operator, sample, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden": torch.zeros(6, 9)}, "hidden (6, 9) does not fit weight (10, 8)"),
        ({"targets": torch.zeros(5, dtype=torch.int64)}, "targets (5,) do not fit hidden (6, 8); want (6,)"),
        ({"targets": torch.zeros(6, dtype=torch.int32)}, "targets are torch.int32; want torch.int64"),
        ({"targets": torch.tensor([0, 1, 10, 3, -100, 4])}, "target 10 (1 such in all); allowed are 0 to 9"),
        ({"targets": torch.tensor([0, 1, -1, 3, -1, 4])}, "target -1 (2 such in all)"),
        ({"bias": torch.zeros(9)}, "bias (9,), want (10,)"),
        ({"lora_a": torch.zeros(2, 8)}, "one is missing"),
        ({"gate": torch.zeros(2)}, "one is missing"),
        ({"lora_a": torch.zeros(2, 8), "lora_b": torch.zeros(10, 3)}, "lora_b (10, 3), want (10, 2)"),
        ({"hidden": torch.zeros(6, 8, dtype=torch.bfloat16)}, "outside autocast they must be equal"),
        ({"hidden": torch.zeros(6, 8, dtype=torch.int64)}, "must be floating point"),
        ({"weight": torch.zeros(10, 8, device="meta")}, "weight on meta"),
        ({"softcap": 0.0}, "softcap=0.0; allowed is a number above 0"),
    ],
)
def test_refuses_by_name(change, words):
    given = {"hidden": torch.zeros(6, 8), "weight": torch.zeros(10, 8), "targets": torch.zeros(6, dtype=torch.int64)}
    for function in (linear_log_probs, linear_cross_entropy, linear_token_scores):
        with pytest.raises(ValueError) as error:
            function(**{**given, **change})
        assert words in str(error.value)


def test_triton_asked_for_on_the_cpu_is_refused(monkeypatch):
    from fulgurite.kernels import backend

    arguments = make((6, 8), 10, torch.float32)
    with use_backend("torch"):
        linear_log_probs(**arguments)
    monkeypatch.setattr(backend, "_setting", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(
        RuntimeError, match="linear_log_probs: backend 'triton' was asked for, but the tensor is on cpu"
    ):
        linear_log_probs(**arguments)

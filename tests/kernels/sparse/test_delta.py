"""Sparse layers against their twins: forward and each gradient by name, in float64 to 1e-9, and what must not exist meanwhile."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fulgurite.kernels import (
    live_values,
    plan_sparse_delta,
    reference,
    sparse_delta_embedding,
    sparse_delta_linear,
    use_backend,
    write_live_,
)
from fulgurite.kernels.sparse import plan as sparse_plan
from fulgurite.kernels.sparse.gradient import by_method, narrowed, selected_entries
from tests.kernels.sparse.sparse_cases import make, positions

# Beyond plain torch's own error in the same dtype, relative to the largest entry.
# Older versions cannot trace what these functions look at (sizes of plans, numbers of targets).
compiles = pytest.mark.skipif(
    tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 13),
    reason="torch.compile is tested from torch 2.13 on",
)


SLACK = {torch.float64: 1e-14, torch.float32: 5e-7, torch.bfloat16: 7.8e-3, torch.float16: 9.8e-4}


def run(function, tensors, dtype=None, **options):
    inputs = {
        name: t if t is None or not t.dtype.is_floating_point else t.detach().to(dtype or t.dtype).requires_grad_()
        for name, t in tensors.items()
    }
    y = function(*inputs.values(), **options)
    dy = torch.cos(torch.arange(y.numel())).reshape(y.shape)
    y.backward(dy.bfloat16().to(y.dtype))  # the same numbers in every dtype
    assert inputs["weight"].grad is None
    return {"y": y.detach(), **{f"d_{n}": t.grad for n, t in inputs.items() if t is not None and t.grad is not None}}


def assert_as_exact_as_torch(tensors, dtype, **options):
    exact = run(reference.sparse_delta_linear, tensors, torch.float64, **options)
    plain = run(reference.sparse_delta_linear, tensors, **options)
    ours = run(sparse_delta_linear, tensors, **options)
    assert ours.keys() == plain.keys() and "d_delta" in ours
    for name, value in ours.items():
        assert value.dtype == plain[name].dtype, name
        if value.numel():
            error, allowed = (relative(t[name], exact[name]) for t in (ours, plain))
            assert error <= allowed + SLACK[dtype], f"{name}: error {error:.2e} against plain torch's {allowed:.2e}"
            assert dtype != torch.float64 or error < 1e-9


def relative(value, truth):
    return float((value.double() - truth).abs().max() / truth.abs().max().clamp(min=1e-30))


# Shapes and counts that take every method: dots, sampled and dense, each with and without rows and columns left out.
CASES = [
    ((5, 7), 3, 4),
    ((2, 9, 33), 17, 200),
    ((1, 8), 8, 40),
    ((4, 3, 2, 96), 200, 300),
    ((700, 64), 80, 60),
    ((600, 130), 70, 900),
]


@pytest.mark.parametrize("dtype", list(SLACK), ids=str)
@pytest.mark.parametrize(("shape", "outputs", "n"), CASES, ids=str)
@pytest.mark.parametrize("transposed", [False, True], ids=["rows of outputs", "rows of inputs"])
def test_forward_and_gradients(shape, outputs, n, dtype, transposed, poisoned_memory):
    assert_as_exact_as_torch(make(shape, outputs, n, dtype, transposed=transposed), dtype, transposed=transposed)


def test_the_cases_take_every_method():
    taken = {plan_sparse_delta(positions(n, o * s[-1]), (o, s[-1])).method(torch.float32) for s, o, n in CASES}
    assert taken == {"dots", "sampled", "dense"}


@pytest.mark.parametrize("method", ["dots", "sampled", "dense"])
@pytest.mark.parametrize("dtype", list(SLACK), ids=str)
@pytest.mark.parametrize("rows", [[0, 1], [3, 99], list(range(0, 100, 3)), list(range(100))], ids=len)
def test_every_method_on_clustered_masks(method, dtype, rows, monkeypatch):
    """Chunks of two rows; masks in few rows and columns and in all of them."""
    monkeypatch.setattr(sparse_plan, "CHUNK_NUMBERS", 90)
    mask = torch.zeros(100, 45, dtype=torch.bool)
    mask[rows, :20] = torch.rand(len(rows), 20, generator=torch.Generator().manual_seed(1)) < 0.4
    index = mask.view(-1).nonzero().flatten()
    plan = plan_sparse_delta(index, (100, 45))
    g = torch.Generator().manual_seed(0)
    left, right = torch.randn(530, 100, generator=g).to(dtype), torch.randn(530, 45, generator=g).to(dtype)
    truth = (left.double().t() @ right.double()).view(-1)[index]
    got = by_method(narrowed(left, plan.row_ids), narrowed(right, plan.column_ids), plan, method)
    assert got.dtype == torch.promote_types(dtype, torch.float32)
    # The dense product is rounded to its operands' dtype; sums of 530 products in float32 were seen 4e-7 off.
    rounded = dtype if method == "dense" else got.dtype
    assert relative(got, truth) < (2 if dtype.itemsize == 2 and method == "dense" else 8) * torch.finfo(rounded).eps


def test_rows_and_columns_are_left_out_only_where_they_are_many():
    index = torch.arange(0, 40)[:, None] * 100 + torch.arange(0, 60)
    plan = plan_sparse_delta(index.flatten(), (100, 100))
    assert plan.size == (40, 100) and plan.column_ids is None and plan.row_ids.tolist() == list(range(40))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_nothing_is_trained(dtype):
    tensors = make((6, 10), 12, 0, dtype)
    assert_as_exact_as_torch(tensors, dtype)
    assert run(sparse_delta_linear, tensors)["d_delta"].shape == (0,)


def test_no_tokens():
    tensors = make((0, 10), 12, 7, torch.float32)
    assert torch.equal(run(sparse_delta_linear, tensors)["d_delta"], torch.zeros(7))


def test_input_and_output_gradient_with_odd_strides():
    tensors = make((40, 24), 30, 90, torch.float64)
    tensors["x"] = torch.randn(24, 40, dtype=torch.float64).t()[::2].requires_grad_()
    assert_as_exact_as_torch(tensors, torch.float64)
    delta = tensors["delta"].detach().requires_grad_()
    fixed = [tensors[n].detach() for n in ("x", "weight", "bias")]
    sparse_delta_linear(*fixed, delta, tensors["index"]).sum().backward()  # an expanded gradient, no stride at all
    truth = fixed[0].sum(0).expand(30, 24).reshape(-1)[tensors["index"]]
    torch.testing.assert_close(delta.grad, truth, rtol=1e-12, atol=1e-12)


def test_finite_differences():
    weight, index = torch.randn(6, 5, dtype=torch.float64), positions(9, 30)

    def layer(x, bias, delta):
        live = weight.clone()
        write_live_(live, index, weight.view(-1)[index], delta.detach())
        return sparse_delta_linear(x, live, bias, delta, index)

    arguments = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((3, 5), (6,), (9,))]
    assert torch.autograd.gradcheck(layer, arguments)


class Allocations(TorchDispatchMode):
    """The size of every tensor that an operation made, views and known storages left out."""

    def __init__(self, *known):
        super().__init__()
        self.known = {t.untyped_storage().data_ptr() for t in known}
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
                continue
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.known:
                self.largest = max(self.largest, storage.nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n", "method"), [(20, "dots"), (3000, "sampled"), (150_000, "dense")])
def test_nothing_of_the_weights_size_is_made(n, method, dtype, monkeypatch):
    monkeypatch.setattr(sparse_plan, "CHUNK_NUMBERS", 16 * 512)
    tensors = make((40, 512), 512, n, dtype)
    weight, index = tensors["weight"].detach(), tensors["index"]
    plan = plan_sparse_delta(index, (512, 512))
    assert plan.method(dtype) == method
    with Allocations(weight) as ours:
        sparse_delta_linear(tensors["x"], weight, None, tensors["delta"], index, plan=plan).sum().backward()
    assert ours.largest <= max(40 * 512, n, 16 * 512)
    with Allocations(weight) as dense:
        reference.sparse_delta_linear(tensors["x"], weight, None, tensors["delta"], index).sum().backward()
    assert dense.largest >= 512 * 512  # the spy sees what it should


def saved(compute):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        compute()
    return kept


def test_a_layer_keeps_few_columns_where_few_are_trained():
    x, weight = torch.randn(50, 256), torch.randn(64, 256)
    few, many = torch.arange(0, 64) * 256 + 5, torch.arange(0, 256)
    for index, width in ((few, 1), (many, 256)):
        delta = torch.zeros(index.numel(), requires_grad=True)
        (kept,) = saved(lambda i=index, d=delta: sparse_delta_linear(x, weight, None, d, i))
        assert kept.shape == (50, width)


def test_autocast_keeps_no_copy_of_the_weight():
    tensors = make((30, 40), 20, 50, torch.float32)
    x, weight, bias, delta, index = tensors.values()
    with torch.autocast("cpu", torch.bfloat16):
        kept = saved(lambda: sparse_delta_linear(x, weight, bias, delta, index))
        y = sparse_delta_linear(x, weight, bias, delta, index)
        twin = reference.sparse_delta_linear(x, weight, bias, delta, index)
    assert y.dtype == twin.dtype == torch.bfloat16
    assert any(t.data_ptr() == weight.data_ptr() for t in kept)
    assert not any(t.shape == weight.shape and t.dtype == torch.bfloat16 for t in kept)
    ours = torch.autograd.grad(y.float().square().sum(), (x, bias, delta))
    theirs = torch.autograd.grad(twin.float().square().sum(), (x, bias, delta))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype and relative(mine, other.double()) < 1e-2


@compiles
@pytest.mark.parametrize("n", [10, 300, 2500], ids=["dots", "sampled", "dense"])
def test_compiled_without_a_graph_break(n):
    tensors = make((3, 20, 96), 64, n, torch.float32)
    x, weight, bias, delta, index = tensors.values()
    plan = plan_sparse_delta(index, (64, 96))
    layer = lambda x, b, d: sparse_delta_linear(x, weight, b, d, index, plan=plan)  # noqa: E731
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    got, want = (torch.autograd.grad(f(x, bias, delta).square().sum(), (x, bias, delta)) for f in (compiled, layer))
    for mine, other in zip(got, want, strict=True):
        assert relative(mine, other.double()) < 1e-6


def test_checkpointed():
    from torch.utils.checkpoint import checkpoint

    tensors = make((30, 40), 20, 50, torch.float64)
    x, weight, bias, delta, index = tensors.values()
    layer = lambda x: sparse_delta_linear(x, weight, bias, delta, index)  # noqa: E731
    got = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).square().sum(), (x, bias, delta))
    for mine, other in zip(got, torch.autograd.grad(layer(x).square().sum(), (x, bias, delta)), strict=True):
        assert torch.equal(mine, other)


def test_the_base_may_be_put_back_between_forward_and_backward():
    """Policy forward, reference forward on the base, backward: the writes raise no version, the gradient is the policy's."""
    tensors = make((30, 40), 20, 50, torch.float64)
    x, weight, bias, delta, index = tensors.values()
    weight = weight.detach()
    base = weight.view(-1)[index].clone()
    write_live_(weight, index, base, delta)
    policy = sparse_delta_linear(x, weight, bias, delta, index)
    write_live_(weight, index, base)
    with torch.no_grad():
        before = sparse_delta_linear(x, weight, bias, delta, index)
    write_live_(weight, index, base, delta)
    assert not torch.equal(policy, before)
    got = torch.autograd.grad((policy - before).square().sum(), (x, delta))
    again = sparse_delta_linear(x, weight, bias, delta, index)
    for mine, other in zip(got, torch.autograd.grad((again - before).square().sum(), (x, delta)), strict=True):
        assert torch.equal(mine, other)


def test_a_thousand_writes_and_undos_change_no_bit_in_bf16():
    weight, index = torch.randn(60, 50).bfloat16(), positions(700, 3000)
    before, base, delta = weight.clone(), weight.view(-1)[index].clone(), torch.randn(700)
    for _ in range(1000):
        write_live_(weight, index, base, delta)
        assert (weight != before).sum() > 600
        write_live_(weight, index, base)
    assert torch.equal(weight, before)
    rest = torch.ones(3000, dtype=torch.bool)
    rest[index] = False
    write_live_(weight, index, base, delta)
    assert torch.equal(weight.view(-1)[rest], before.view(-1)[rest])
    assert torch.equal(weight.view(-1)[index], (base.float() + delta).bfloat16())


@pytest.mark.parametrize("dtype", list(SLACK), ids=str)
@pytest.mark.parametrize("padding_idx", [None, 3, -1])
@pytest.mark.parametrize("n", [0, 1, 60, 350])
def test_embedding(dtype, padding_idx, n):
    table, index = torch.randn(40, 9).to(dtype), positions(n, 360)
    ids = torch.randint(0, 40, (4, 13), generator=torch.Generator().manual_seed(0))
    delta = torch.zeros(n, dtype=torch.promote_types(dtype, torch.float32), requires_grad=True)
    dy = torch.cos(torch.arange(4 * 13 * 9)).reshape(4, 13, 9).to(dtype)
    y = sparse_delta_embedding(ids, table, delta, index, padding_idx)
    assert torch.equal(y, F.embedding(ids, table))
    y.backward(dy)
    exact = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    reference.sparse_delta_embedding(ids, table.double(), exact, index, padding_idx).backward(dy.double())
    torch.testing.assert_close(
        delta.grad.double(), exact.grad, rtol=1e-5, atol=1e-9 if dtype == torch.float64 else 1e-5
    )


def test_the_table_of_an_embedding_is_never_made_again():
    table, index = torch.randn(5000, 16), positions(800, 80_000)
    delta = torch.zeros(800, requires_grad=True)
    with Allocations(table) as spy:
        sparse_delta_embedding(torch.randint(0, 5000, (2, 30)), table, delta, index).sum().backward()
    assert spy.largest <= 60 * 16


LAYERS = {
    "LayerNorm weight": ((24,), lambda x, t: F.layer_norm(x, (24,), t)),
    "bias": ((8,), lambda x, t: F.linear(x, torch.ones(8, 24, dtype=x.dtype), t)),
    "convolution in one dimension": ((6, 4, 3), lambda x, t: F.conv1d(x.view(2, 4, -1), t)),
    "convolution in two dimensions": ((5, 3, 2, 2), lambda x, t: F.conv2d(x.view(1, 3, 8, -1), t, stride=2)),
}


@pytest.mark.parametrize("kind", list(LAYERS))
def test_other_layers_through_live_values(kind):
    shape, layer = LAYERS[kind]
    tensor, x = torch.randn(*shape, dtype=torch.float64, requires_grad=True), torch.randn(10, 24, dtype=torch.float64)
    index = positions(tensor.numel() // 2, tensor.numel())
    delta = torch.zeros(index.numel(), requires_grad=True)
    y = layer(x, live_values(tensor, delta, index))
    assert torch.equal(y, layer(x, tensor))
    y.square().sum().backward()
    assert tensor.grad is None
    whole = torch.autograd.grad(layer(x, tensor).square().sum(), tensor)[0]
    torch.testing.assert_close(delta.grad, whole.view(-1)[index].float(), rtol=1e-6, atol=1e-6)
    exact = torch.zeros(index.numel(), dtype=torch.float64, requires_grad=True)
    layer(x, live_values(tensor, exact, index)).square().sum().backward()
    assert relative(exact.grad, whole.view(-1)[index]) < 1e-9


def test_tied_embedding_and_head_are_trained_as_one():
    table, index = torch.randn(30, 12, dtype=torch.float64), positions(40, 360)
    delta, ids = torch.zeros(40, dtype=torch.float64, requires_grad=True), torch.randint(0, 30, (25,))

    def loss(embed, head):
        return torch.logsumexp(head(embed(ids).tanh()), -1).sum()

    ours = loss(
        lambda i: sparse_delta_embedding(i, table, delta, index),
        lambda h: sparse_delta_linear(h, table, None, delta, index),
    )
    whole = table.clone().requires_grad_()
    truth = torch.autograd.grad(loss(lambda i: F.embedding(i, whole), lambda h: F.linear(h, whole)), whole)[0]
    assert relative(torch.autograd.grad(ours, delta)[0], truth.view(-1)[index]) < 1e-9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": torch.tensor([3, 1, 2])}, "not strictly increasing"),
        ({"index": torch.tensor([1, 1, 2])}, "not strictly increasing"),
        ({"index": torch.tensor([0, 1, 480])}, "reaches from 0 to 480; the weight has 480"),
        ({"index": torch.tensor([-1, 1, 2])}, "reaches from -1"),
        ({"index": torch.tensor([0, 1])}, "want (n,) and int64"),
        ({"index": torch.tensor([0, 1, 2], dtype=torch.int32)}, "int64"),
        ({"delta": torch.zeros(3, dtype=torch.bfloat16)}, "keep it in float32"),
        ({"weight": torch.zeros(24, 20).t()}, "must be floating point and contiguous"),
        ({"weight": torch.zeros(20, 24, dtype=torch.int8)}, "must be floating point and contiguous"),
        ({"weight": torch.zeros(20, 24).bfloat16()}, "outside autocast they must be equal"),
        ({"x": torch.zeros(5, 23)}, "does not fit weight"),
        ({"bias": torch.zeros(3)}, "bias (3,); want (20,)"),
        ({"plan": plan_sparse_delta(torch.tensor([0, 1, 3]), (20, 24))}, "call plan_sparse_delta anew"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(change, message):
    given = {
        "x": torch.zeros(5, 24), "weight": torch.zeros(20, 24), "bias": None, "delta": torch.zeros(3),
        "index": torch.tensor([0, 1, 2]),
    }  # fmt: skip
    with pytest.raises(ValueError) as error:
        sparse_delta_linear(**{**given, **change})
    assert message in str(error.value)


def test_an_index_that_was_changed_needs_a_new_plan():
    index = torch.tensor([0, 1, 2])
    plan = plan_sparse_delta(index, (20, 24))
    assert plan.fits(index, (20, 24)) and not plan.fits(index, (24, 20)) and not plan.fits(index.clone(), (20, 24))
    index[2] = 7
    assert not plan.fits(index, (20, 24))


def test_triton_cannot_be_forced_on_the_cpu():
    plan = plan_sparse_delta(torch.tensor([0]), (2, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fulgurite.kernels.backend._require_triton", lambda: None)
        patch.delenv("TRITON_INTERPRET", raising=False)
        use_backend("triton")
    with pytest.raises(RuntimeError, match="sparse_delta_gradient: backend 'triton' was asked for"):
        selected_entries(torch.ones(3, 2), torch.ones(3, 2), plan)

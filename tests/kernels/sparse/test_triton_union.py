"""The union kernel of sparse gradients against float64, and the operator that takes it.

On a GPU this file runs as it is. Without one, test_triton_interpreter.py runs it in a process of its own under
Triton's interpreter, which must be on before the kernels are imported.
"""

from __future__ import annotations

import os

import pytest
import torch

from fulgurite.kernels import plan_sparse_delta, reference, sparse_delta_linear, use_backend

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU; test_triton_interpreter.py runs this file without one", allow_module_level=True)
DEVICE = "cpu" if INTERPRETED else "cuda"

# Float32 sums of at most 700 exact products; seen: 2.3e-7.
TOLERANCE = 1e-6
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


@pytest.fixture(autouse=True)
def _triton(_restore_global_state):
    use_backend("triton")


def positions(n, numel, seed=0):
    return torch.randperm(numel, generator=torch.Generator().manual_seed(seed))[:n].sort()[0].to(DEVICE)


def gradient(left, right, index):
    from fulgurite.kernels.sparse.gradient import selected_entries

    return selected_entries(left, right, plan_sparse_delta(index, (left.shape[1], right.shape[1])))


def sides(tokens, rows, columns, dtype):
    g = torch.Generator().manual_seed(1)
    return [torch.randn(tokens, c, generator=g).to(dtype).to(DEVICE) for c in (rows, columns)]


def relative(value, truth):
    return float((value.double() - truth).abs().max() / truth.abs().max().clamp(min=1e-30))


@DTYPES
@pytest.mark.parametrize(
    ("tokens", "rows", "columns", "n"),
    [
        (1, 1, 1, 1),
        (1, 3, 5, 15),
        (300, 130, 200, 400),  # blocks of 64, 64 and 2 rows
        (70, 65, 33, 2145),  # every entry
        (129, 200, 700, 2000),  # several tiles of columns
        (700, 64, 40, 64),  # few blocks: the tokens are cut into ranges
    ],
    ids=str,
)
def test_gradient(tokens, rows, columns, n, dtype, poisoned_memory):
    left, right = sides(tokens, rows, columns, dtype)
    index = positions(n, rows * columns)
    truth = (left.double().t() @ right.double()).reshape(-1)[index]
    got = gradient(left, right, index)
    assert got.dtype == torch.float32 and relative(got, truth) < TOLERANCE
    assert torch.equal(got, gradient(left, right, index))  # fixed order: the same bits again


@DTYPES
def test_tokens_in_chunks(dtype, monkeypatch):
    from fulgurite.kernels.sparse import triton_union as triton_sparse_delta

    monkeypatch.setattr(triton_sparse_delta, "CHUNK_BYTES", 64 * 90 * dtype.itemsize)
    left, right = sides(150, 70, 90, dtype)
    index = positions(500, 70 * 90)
    truth = (left.double().t() @ right.double()).reshape(-1)[index]
    assert relative(gradient(left, right, index), truth) < TOLERANCE


@DTYPES
def test_entries_picked_from_a_dense_product(dtype, monkeypatch, poisoned_memory):
    from fulgurite.kernels.sparse import plan as sparse_plan
    from fulgurite.kernels.sparse import triton_picked
    from fulgurite.kernels.sparse.gradient import by_method

    monkeypatch.setattr(sparse_plan, "CHUNK_NUMBERS", 20 * 90)
    monkeypatch.setattr(sparse_plan, "CHUNK_NUMBERS_GPU", 128 * 90)
    left, right = sides(50, 300, 90, dtype)
    index = positions(7000, 300 * 90)
    index = index[(index // 90 < 128) | (index // 90 >= 256)]  # on a GPU a chunk of rows without an entry
    plan = plan_sparse_delta(index, (300, 90))
    assert len(plan.bounds) > 3
    truth = (left.double().t() @ right.double()).reshape(-1)[index]
    for early in (False, triton_picked.why_not_early(torch.device(DEVICE)) is None):
        monkeypatch.setattr(triton_picked, "EARLY", early)
        got = by_method(left, right, plan, "dense")
        assert got.dtype == torch.float32 and relative(got, truth) < torch.finfo(dtype).eps + TOLERANCE


@DTYPES
def test_left_with_odd_strides_and_a_clustered_mask(dtype):
    left = sides(120, 60, 50, dtype)[0].t().contiguous().t()
    right = sides(120, 60, 50, dtype)[1]
    index = (torch.tensor([3, 40, 41], device=DEVICE)[:, None] * 50 + torch.arange(0, 50, 4, device=DEVICE)).flatten()
    truth = (left.double().t() @ right.double()).reshape(-1)[index]
    assert relative(gradient(left, right, index), truth) < TOLERANCE


def test_bits_below_every_bit():
    """Whole columns of 64 rows: each bit of the word, the sign bit too."""
    left, right = sides(20, 64, 3, torch.float32)
    index = (torch.arange(64, device=DEVICE) * 3 + 1).flatten()
    truth = (left.double().t() @ right.double()).reshape(-1)[index]
    assert relative(gradient(left, right, index), truth) < TOLERANCE


@DTYPES
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("n", [0, 1, 300])
def test_the_layer_against_its_twin(dtype, transposed, n):
    g = torch.Generator().manual_seed(0)
    shape = (33, 20) if transposed else (20, 33)
    weight = torch.randn(*shape, generator=g).to(dtype).to(DEVICE)
    x = torch.randn(2, 9, 33, generator=g).to(dtype).to(DEVICE).requires_grad_()
    bias = torch.randn(20, generator=g).to(dtype).to(DEVICE).requires_grad_()
    delta = torch.zeros(n, device=DEVICE, requires_grad=True)
    index = positions(n, 660)
    dy = torch.cos(torch.arange(360, device=DEVICE)).view(2, 9, 20).to(dtype)
    y = sparse_delta_linear(x, weight, bias, delta, index, transposed=transposed)
    got = torch.autograd.grad(y, (x, bias, delta), dy)
    wide = [t.detach().double().requires_grad_() for t in (x, bias, delta)]
    exact = reference.sparse_delta_linear(wide[0], weight.double(), wide[1], wide[2], index, transposed=transposed)
    for value, truth in zip(got, torch.autograd.grad(exact, wide, dy.double()), strict=True):
        assert value.numel() == 0 or relative(value, truth) < 2 * torch.finfo(dtype).eps + TOLERANCE


@pytest.mark.parametrize("ready", [True, False], ids=["union made before", "union made by the operator"])
def test_compiled_without_a_graph_break(ready):
    weight, index = torch.randn(70, 40, device=DEVICE), positions(200, 2800)
    plan = plan_sparse_delta(index, (70, 40))
    if ready:
        assert plan.union.entries.numel() == 200
    x = torch.randn(30, 40, device=DEVICE, requires_grad=True)
    delta = torch.zeros(200, device=DEVICE, requires_grad=True)
    layer = lambda x, d: sparse_delta_linear(x, weight, None, d, index, plan=plan)  # noqa: E731
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    got, want = (torch.autograd.grad(f(x, delta).square().sum(), (x, delta)) for f in (compiled, layer))
    for mine, other in zip(got, want, strict=True):
        assert relative(mine, other.double()) < TOLERANCE


def test_float64_is_refused():
    left, right = (side.double() for side in sides(4, 3, 3, torch.float32))
    with pytest.raises(RuntimeError, match="takes bfloat16, float16 and float32"):
        gradient(left, right, positions(2, 9))

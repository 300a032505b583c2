"""The Triton kernels of gated_lora_linear: forward and each gradient by name, against float64 and plain torch's own error.

On a GPU this file runs as it is. Without one, test_triton_interpreter.py runs it in a process of its own under
Triton's interpreter, which must be on before the kernels are imported.
"""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F

from fulgurite.kernels import gated_lora_linear, reference, use_backend

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU; test_triton_interpreter.py runs this file without one", allow_module_level=True)
DEVICE = "cpu" if INTERPRETED else "cuda"

NAMES = ("x", "weight", "bias", "lora_a", "gate", "lora_b")
# Beyond plain torch's own error in the same dtype: one spacing of the largest entry, because the small term is rounded once
# before the big one is accumulated onto it. Seen beyond plain torch: float32 2.2e-7 (∂x), bf16 2.0e-3 (y), fp16 5.6e-4 (y); on a
# GPU, where float32 products are summed one by one, 6.8e-7 (∂B).
SLACK = {torch.float32: 5e-7 if INTERPRETED else 1e-6, torch.bfloat16: 7.8e-3, torch.float16: 9.8e-4}
DTYPES = pytest.mark.parametrize("dtype", list(SLACK), ids=str)


@pytest.fixture(autouse=True)
def _triton(_restore_global_state):
    use_backend("triton")


def make(shape, n, r, dtype, *, gate=True, bias=True, adapter=None):
    """Inputs drawn in their dtype, so that the float64 reference sees the very same numbers; all require gradients."""
    g = torch.Generator().manual_seed(0)
    k = shape[-1]
    sizes = {"x": shape, "weight": (n, k), "bias": (n,), "lora_a": (r, k), "gate": (r,), "lora_b": (n, r)}
    tensors = {name: torch.randn(*size, generator=g).to(dtype) for name, size in sizes.items()}
    for name in ("lora_a", "gate", "lora_b"):
        tensors[name] = tensors[name].to(adapter or dtype)
    tensors = {name: t.to(DEVICE).requires_grad_() for name, t in tensors.items()}
    return {**tensors, "gate": tensors["gate"] if gate else None, "bias": tensors["bias"] if bias else None}


def run(function, tensors, dropout=0.0, dtype=None, scaling=2.0):
    inputs = {
        name: None if t is None else t.detach().to(dtype or t.dtype).requires_grad_(t.requires_grad)
        for name, t in tensors.items()
    }
    torch.manual_seed(3)
    y = function(*(inputs[name] for name in NAMES), scaling, dropout)
    if y.requires_grad:
        dy = torch.cos(torch.arange(y.numel(), device=y.device)).reshape(y.shape)
        y.backward(dy.bfloat16().to(y.dtype))  # the same numbers in every dtype
    return {"y": y.detach(), **{f"d_{n}": t.grad for n, t in inputs.items() if t is not None and t.grad is not None}}


def assert_as_exact(ours, plain, exact, slack):
    assert ours.keys() == plain.keys() == exact.keys()
    for name, value in ours.items():
        assert value.dtype == plain[name].dtype and value.shape == plain[name].shape, name
        truth = exact[name].double()
        scale = truth.abs().max().clamp(min=1e-30) if truth.numel() else 1.0
        errors = [((v.double() - truth).abs().max() / scale if truth.numel() else 0.0) for v in (value, plain[name])]
        assert errors[0] <= errors[1] + slack, f"{name}: error {errors[0]:.2e}, plain torch's {errors[1]:.2e}"


def assert_as_exact_as_torch(tensors, dtype):
    exact = run(reference.gated_lora_linear, tensors, dtype=torch.float64)
    assert_as_exact(run(gated_lora_linear, tensors), run(reference.gated_lora_linear, tensors), exact, SLACK[dtype])


@DTYPES
@pytest.mark.parametrize(
    ("shape", "n", "r"),
    [
        ((5, 7), 3, 2),
        ((1, 8), 8, 1),
        ((2, 9, 33), 17, 3),
        ((70, 40), 24, 8),
        ((3, 64), 64, 16),
        ((2, 300), 140, 33),
        ((520, 70), 67, 20),
    ],
    ids=str,
)
def test_forward_and_gradients(shape, n, r, dtype, poisoned_memory):
    assert_as_exact_as_torch(make(shape, n, r, dtype), dtype)


@DTYPES
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_without_a_gate(dtype, bias, poisoned_memory):
    assert_as_exact_as_torch(make((2, 9, 33), 17, 3, dtype, gate=False, bias=bias), dtype)


@pytest.mark.parametrize(("rows", "height"), [(2100, 32), (8200, 64)])
def test_every_height_of_tile(rows, height, monkeypatch, poisoned_memory):
    """The tile that the rule gives many rows, on few of them: under the interpreter thousands take too long."""
    from fulgurite.kernels.low_rank import triton_launch, triton_rules

    tile = triton_rules.shrink_tile(rows, 16, 4)
    assert tile.rows == height
    monkeypatch.setattr(triton_launch, "shrink_tile", lambda *_: tile)
    assert_as_exact_as_torch(make((150, 70), 18, 3, torch.float32), torch.float32)


@pytest.mark.parametrize("rows", [1, 63, 256, 511, 512, 4096, 8192, 100_001])
@pytest.mark.parametrize("blocks", [1, 24, 128, 700])
def test_ranges_of_rows_cover_all_rows(rows, blocks):
    from fulgurite.kernels.low_rank.triton_rules import split_rows

    parts, each = split_rows(rows, blocks, 64)
    assert parts * each >= rows and each % 64 == 0 and parts in (1, 2, 4, 8, 16)


@pytest.mark.parametrize("adapter", [torch.float32, torch.bfloat16], ids=str)
def test_gate_gradient_under_a_bf16_base_is_exact(adapter):
    """u and t meet in float32, unrounded; plain torch rounds both to bf16 first and was seen 1.2e-3 off on this input."""
    tensors = make((300, 40), 33, 5, torch.bfloat16)
    for name in ("lora_a", "lora_b"):
        tensors[name] = tensors[name].detach().to(adapter).requires_grad_()
    tensors["gate"] = tensors["gate"].detach().float().requires_grad_()
    exact = run(reference.gated_lora_linear, tensors, dtype=torch.float64)["d_gate"]
    ours = run(gated_lora_linear, tensors)["d_gate"]
    assert ours.dtype == torch.float32
    assert (ours - exact).abs().max() / exact.abs().max() < 5e-6


@pytest.mark.parametrize("base", [torch.bfloat16, torch.float16], ids=str)
def test_float32_adapter_beside_a_narrow_base(base):
    tensors = make((70, 40), 33, 4, base, adapter=torch.float32)
    exact = run(reference.gated_lora_linear, tensors, dtype=torch.float64)
    ours = run(gated_lora_linear, tensors)
    assert ours["y"].dtype == base and ours["d_lora_a"].dtype == ours["d_lora_b"].dtype == torch.float32
    # A and B are rounded to x's dtype for the products: half a spacing each.
    for name, value in ours.items():
        assert (value.double() - exact[name]).abs().max() / exact[name].abs().max() < SLACK[base], name


@pytest.mark.parametrize("wanted", [("x",), ("lora_a",), ("gate",), ("lora_b",), ("bias", "gate"), ("weight", "x")])
def test_only_what_is_needed(wanted):
    tensors = make((70, 40), 24, 5, torch.float32)
    for name, tensor in tensors.items():
        tensor.requires_grad_(name in wanted)
    assert set(run(gated_lora_linear, tensors)) == {"y", *(f"d_{name}" for name in wanted)}
    assert_as_exact_as_torch(tensors, torch.float32)


def test_non_contiguous_everything():
    wide = {name: t.detach() for name, t in make((50, 80), 48, 8, torch.float32).items()}
    tensors = {
        "x": wide["x"][:, ::2],
        "weight": wide["weight"][:, :40].t().contiguous().t(),
        "bias": wide["bias"],
        "lora_a": wide["lora_a"][:5, 40:],
        "gate": wide["gate"][:5],
        "lora_b": wide["lora_b"][:, :5],
    }
    assert not tensors["x"].is_contiguous() and not tensors["lora_b"].is_contiguous()
    leaves = {name: t.requires_grad_() for name, t in tensors.items()}
    y = gated_lora_linear(*(leaves[n] for n in NAMES), 2.0)
    seeds = torch.randn(48, 50, device=DEVICE).t()  # a gradient that is not contiguous either
    ours = torch.autograd.grad(y, [leaves[n] for n in NAMES], seeds)
    doubles = {name: t.detach().double().requires_grad_() for name, t in tensors.items()}
    exact = torch.autograd.grad(
        reference.gated_lora_linear(*(doubles[n] for n in NAMES), 2.0), [doubles[n] for n in NAMES], seeds.double()
    )
    for name, mine, truth in zip(NAMES, ours, exact):
        assert ((mine - truth).abs().max() / truth.abs().max()) < 2e-6, name
    transposed = torch.randn(40, 50, device=DEVICE).t()
    y = gated_lora_linear(transposed, *(leaves[n].detach() for n in NAMES[1:]), 2.0)
    torch.testing.assert_close(
        y, reference.gated_lora_linear(transposed, *(leaves[n].detach() for n in NAMES[1:]), 2.0), rtol=1e-4, atol=1e-4
    )


def test_gradient_of_a_sum_is_an_expanded_element():
    tensors = make((70, 40), 24, 5, torch.float32)
    gated_lora_linear(*(tensors[n] for n in NAMES), 2.0).sum().backward()
    doubles = {name: t.detach().double().requires_grad_() for name, t in tensors.items()}
    reference.gated_lora_linear(*(doubles[n] for n in NAMES), 2.0).sum().backward()
    for name in NAMES:
        torch.testing.assert_close(tensors[name].grad.double(), doubles[name].grad, rtol=1e-5, atol=1e-3)


def test_no_rank_left_is_the_plain_layer_and_stays_in_the_graph():
    tensors = make((5, 6), 4, 3, torch.float32)
    sliced = (tensors["lora_a"][:0], tensors["gate"][:0], tensors["lora_b"][:, :0])
    y = gated_lora_linear(tensors["x"], tensors["weight"], tensors["bias"], *sliced, 2.0)
    torch.testing.assert_close(y, F.linear(tensors["x"], tensors["weight"], tensors["bias"]))
    y.sum().backward()
    assert all(torch.equal(tensors[n].grad, torch.zeros_like(tensors[n])) for n in ("lora_a", "gate", "lora_b"))
    torch.testing.assert_close(tensors["x"].grad, tensors["weight"].sum(0).expand(5, 6))


def test_zero_gate_stops_a_and_b_but_not_the_gate():
    tensors = make((9, 6), 4, 3, torch.float32)
    with torch.no_grad():
        tensors["gate"][1] = 0
    grads = run(gated_lora_linear, tensors)
    assert not grads["d_lora_a"][1].any() and not grads["d_lora_b"][:, 1].any()
    assert grads["d_gate"][1] != 0 and grads["d_lora_a"][0].any()


@pytest.mark.parametrize("shape", [(0, 6), (3, 0, 6)], ids=str)
def test_no_rows(shape):
    tensors = make(shape, 4, 2, torch.float32)
    y = gated_lora_linear(*(tensors[n] for n in NAMES), 1.0)
    assert y.shape == (*shape[:-1], 4)
    y.sum().backward()
    assert all(torch.equal(tensors[n].grad, torch.zeros_like(tensors[n])) for n in NAMES)


def mask_of(rows, columns, dropout):
    """What the kernel multiplies x by, read off it: ones through A = B = 1, W = 0."""
    eye, ones = torch.eye(columns, device=DEVICE), torch.ones(rows, columns, device=DEVICE)
    torch.manual_seed(3)
    return gated_lora_linear(ones, torch.zeros_like(eye), None, eye, None, eye, 1.0, dropout)


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_mask_keeps_what_it_should(dropout):
    rows, columns = 70, 96
    mask = mask_of(rows, columns, dropout)
    keep = round((1 - dropout) * 2**16) / 2**16
    values = sorted(mask.unique().tolist())
    assert len(values) == 2 and values[0] == 0 and abs(values[1] - 1 / keep) < 1e-5
    kept = (mask > 0).double()
    deviation = (keep * (1 - keep)) ** 0.5
    assert abs(kept.mean() - keep) < 4.5 * deviation / kept.numel() ** 0.5
    for dim, count in ((0, rows), (1, columns)):  # no column and no row is favoured
        assert (kept.mean(dim) - keep).abs().max() < 4.5 * deviation / count**0.5
    centred = kept - keep
    for shift in (1, 2, 4, 8, 16):  # nor do neighbours share bits
        bound = 4.5 * deviation**2 / (kept.numel() * 0.75) ** 0.5
        assert abs((centred[:, shift:] * centred[:, :-shift]).mean()) < bound
        assert abs((centred[shift:] * centred[:-shift]).mean()) < bound


@pytest.fixture
def several_ranges(monkeypatch):
    """Let 70 rows be cut into ranges as thousands are: under the interpreter thousands take too long."""
    from fulgurite.kernels.low_rank import triton_rules

    monkeypatch.setattr(triton_rules, "MIN_ROWS_PER_PART", 16)
    assert triton_rules.split_rows(70, 6, 64)[0] == 4


@DTYPES
def test_dropout_is_the_same_in_forward_and_backward(dtype, several_ranges):
    """Every pass draws its own tiles of one mask: compare with torch given that mask."""
    mask = mask_of(70, 100, 0.3)

    def masked(x, weight, bias, lora_a, gate, lora_b, scaling, dropout):
        low = ((x * mask.to(x.dtype)) @ lora_a.t()) * gate
        return F.linear(x, weight, bias) + scaling * (low @ lora_b.t())

    tensors = make((70, 100), 37, 5, dtype)
    exact = run(masked, tensors, dtype=torch.float64)
    assert_as_exact(run(gated_lora_linear, tensors, 0.3), run(masked, tensors), exact, SLACK[dtype])


@DTYPES
def test_two_runs_agree_bit_for_bit(dtype, several_ranges):
    tensors = make((70, 40), 67, 20, dtype)
    first, second = run(gated_lora_linear, tensors, 0.2), run(gated_lora_linear, tensors, 0.2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    tensors["x"] = tensors["x"].detach() * 2
    assert not torch.equal(run(gated_lora_linear, tensors, 0.2)["y"], first["y"])


def test_dropout_differs_from_call_to_call():
    tensors = make((16, 32), 32, 4, torch.float32)
    torch.manual_seed(0)
    first, second = (gated_lora_linear(*(tensors[n] for n in NAMES), 2.0, 0.5) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_activation_checkpointing(dropout):
    from torch.utils.checkpoint import checkpoint

    def grads(wrapped):
        tensors = make((7, 6), 5, 2, torch.float32)
        torch.manual_seed(11)
        call = lambda *a: gated_lora_linear(*a, 2.0, dropout).square()  # noqa: E731
        args = tuple(tensors[n] for n in NAMES)
        out = checkpoint(call, *args, use_reentrant=False) if wrapped else call(*args)
        out.sum().backward()
        return [t.grad for t in args]

    assert all(torch.equal(a, b) for a, b in zip(grads(False), grads(True), strict=True))


def test_autocast_casts_inside_and_returns_float32_gradients():
    tensors = make((16, 8), 4, 2, torch.float32)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        y = gated_lora_linear(*(tensors[n] for n in NAMES), 2.0)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    exact = reference.gated_lora_linear(*(tensors[n].detach().double() for n in NAMES), 2.0)
    assert all(tensors[n].grad.dtype == torch.float32 for n in NAMES)
    assert (y.double() - exact).abs().max() / exact.abs().max() < 2e-2


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_compiles_without_graph_break_to_the_same_bits(dropout, monkeypatch):
    from fulgurite.kernels import backend

    torch._dynamo.reset()
    monkeypatch.setattr(backend, "_loaded", {})  # the first call ever may be a compiled one
    tensors = make((40, 24), 20, 3, torch.float32)
    compiled = torch.compile(
        lambda *a: gated_lora_linear(*a), fullgraph=True, backend="aot_eager" if INTERPRETED else "inductor"
    )
    ours, eager = run(compiled, tensors, dropout), run(gated_lora_linear, tensors, dropout)
    if dropout and not INTERPRETED:  # inductor draws the seed from a generator of its own
        assert ours.keys() == eager.keys()
    else:
        for name in eager:
            torch.testing.assert_close(ours[name], eager[name], rtol=1e-6, atol=1e-6)
    torch._dynamo.reset()


def test_operators_behave_as_torch_library_demands():
    from fulgurite.kernels.low_rank import triton_autograd as triton_gated_lora

    tensors = make((20, 24), 12, 3, torch.float32)
    arguments = (*(tensors[n] for n in NAMES), torch.tensor(7, device=DEVICE), 2.0, 0.5)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(triton_gated_lora._forward_op, arguments, test_utils=tests)


@pytest.mark.parametrize(
    ("dtype", "rank", "words"),
    [(torch.float64, 2, "x is torch.float64, weight is torch.float64"), (torch.float32, 129, "the rank is 129")],
    ids=str,
)
def test_refuses_by_name_what_it_cannot_do(dtype, rank, words):
    tensors = make((6, 8), 4, rank, dtype)
    with pytest.raises(RuntimeError, match="Use use_backend\\('auto'\\)") as error:
        gated_lora_linear(*(tensors[n] for n in NAMES), 1.0)
    assert words in str(error.value)
    use_backend("auto")
    assert_as_exact_or_plain(tensors)


def assert_as_exact_or_plain(tensors):
    y = gated_lora_linear(*(tensors[n] for n in NAMES), 1.0)
    torch.testing.assert_close(y, reference.gated_lora_linear(*(tensors[n] for n in NAMES), 1.0), rtol=1e-4, atol=1e-3)


def test_the_largest_rank():
    assert_as_exact_as_torch(make((40, 60), 50, 128, torch.float32), torch.float32)

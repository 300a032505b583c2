"""gated_lora_linear against its twin: forward and each gradient by name, against float64 and against plain torch's own error."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fulgurite.kernels import gated_lora_linear, reference, use_backend

NAMES = ("x", "weight", "bias", "lora_a", "gate", "lora_b")
# Beyond plain torch's own error in the same dtype: one spacing of the largest entry (t and u are each rounded once; in bf16
# on 5 rows the gate's gradient was seen at 6.2e-3 where plain torch had 1.7e-3).
SLACK = {torch.float64: 1e-13, torch.float32: 5e-7, torch.bfloat16: 7.8e-3, torch.float16: 9.8e-4}


def make(shape, n, r, dtype, *, gate=True, bias=True, weight_grad=True, seed=0):
    """Inputs drawn in ``dtype``, so that the float64 reference sees the very same numbers."""
    g = torch.Generator().manual_seed(seed)
    k = shape[-1]
    sizes = {"x": shape, "weight": (n, k), "bias": (n,), "lora_a": (r, k), "gate": (r,), "lora_b": (n, r)}
    tensors = {name: torch.randn(*size, generator=g).to(dtype) for name, size in sizes.items()}
    if not gate:
        tensors["gate"] = None
    if not bias:
        tensors["bias"] = None
    for name, tensor in tensors.items():
        if tensor is not None:
            tensor.requires_grad_(name != "weight" or weight_grad)
    return tensors


def run(function, tensors, dropout=0.0, dtype=None):
    inputs = {
        name: None if t is None else t.detach().to(dtype or t.dtype).requires_grad_(t.requires_grad)
        for name, t in tensors.items()
    }
    torch.manual_seed(3)
    y = function(*(inputs[name] for name in NAMES), 2.0, dropout)
    weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y.dtype)
    if y.numel():
        (y * weights).sum().backward()
    return {"y": y.detach(), **{f"d_{n}": t.grad for n, t in inputs.items() if t is not None and t.grad is not None}}


def assert_as_exact_as_torch(tensors, dtype, dropout=0.0):
    exact = run(reference.gated_lora_linear, tensors, dropout, torch.float64) if not dropout else None
    plain = run(reference.gated_lora_linear, tensors, dropout)
    ours = run(gated_lora_linear, tensors, dropout)
    assert ours.keys() == plain.keys()
    for name, value in ours.items():
        assert value.dtype == plain[name].dtype, name
        truth = (exact or plain)[name].double()
        scale = truth.abs().max().clamp(min=1e-30)
        error = (value.double() - truth).abs().max() / scale
        allowed = (plain[name].double() - truth).abs().max() / scale + SLACK[dtype]
        assert error <= allowed, f"{name}: error {error:.2e} against plain torch's {allowed:.2e}"


@pytest.mark.parametrize("dtype", list(SLACK), ids=str)
@pytest.mark.parametrize(
    ("shape", "n", "r"),
    [((5, 7), 3, 2), ((2, 9, 33), 17, 4), ((1, 8), 8, 1), ((4, 3, 2, 16), 24, 8), ((3, 64), 64, 16)],
    ids=str,
)
@pytest.mark.parametrize("gate", [True, False], ids=["gated", "lora"])
def test_forward_and_gradients(shape, n, r, dtype, gate, poisoned_memory):
    assert_as_exact_as_torch(make(shape, n, r, dtype, gate=gate), dtype)


@pytest.mark.parametrize("options", [{"bias": False}, {"weight_grad": False}, {"gate": False, "bias": False}], ids=str)
def test_optional_parts(options):
    assert_as_exact_as_torch(make((6, 10), 12, 3, torch.float64, **options), torch.float64)


def test_gate_gradient_in_bf16_is_summed_in_float32():
    """4096 rows: a bf16 sum would be wrong in the first digits."""
    tensors = make((4096, 32), 16, 4, torch.bfloat16)
    tensors["gate"] = tensors["gate"].detach().float().requires_grad_()
    exact = run(reference.gated_lora_linear, tensors, dtype=torch.float64)["d_gate"]
    ours = run(gated_lora_linear, tensors)["d_gate"]
    assert ours.dtype == torch.float32
    assert ((ours - exact).abs().max() / exact.abs().max()) < 5e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_dropout_is_redrawn_from_its_seed(dtype):
    tensors = make((64, 48), 32, 4, dtype)
    assert_as_exact_as_torch(tensors, dtype, dropout=0.3)
    torch.manual_seed(0)
    first = gated_lora_linear(*(tensors[n] for n in NAMES), 2.0, 0.5)
    second = gated_lora_linear(*(tensors[n] for n in NAMES), 2.0, 0.5)
    assert not torch.equal(first, second)


def test_finite_differences():
    tensors = make((3, 5), 4, 2, torch.float64)
    assert torch.autograd.gradcheck(lambda *a: gated_lora_linear(*a, 1.5), tuple(tensors[n] for n in NAMES))


def test_no_rank_left_is_the_plain_layer_and_stays_in_the_graph():
    tensors = make((5, 6), 4, 3, torch.float32)
    sliced = {
        **tensors,
        "lora_a": tensors["lora_a"][:0],
        "gate": tensors["gate"][:0],
        "lora_b": tensors["lora_b"][:, :0],
    }
    y = gated_lora_linear(*(sliced[n] for n in NAMES), 2.0)
    torch.testing.assert_close(y, F.linear(tensors["x"], tensors["weight"], tensors["bias"]))
    y.sum().backward()
    assert all(torch.equal(tensors[n].grad, torch.zeros_like(tensors[n])) for n in ("lora_a", "gate", "lora_b"))


def test_zero_gate_stops_a_and_b_but_not_the_gate():
    tensors = make((9, 6), 4, 3, torch.float32)
    with torch.no_grad():
        tensors["gate"][1] = 0
    grads = run(gated_lora_linear, tensors)
    assert not grads["d_lora_a"][1].any() and not grads["d_lora_b"][:, 1].any()
    assert grads["d_gate"][1] != 0 and grads["d_lora_a"][0].any()


def test_empty_and_non_contiguous_inputs():
    empty = make((0, 6), 4, 2, torch.float32)
    assert gated_lora_linear(*(empty[n] for n in NAMES), 1.0).shape == (0, 4)
    tensors = make((6, 8), 4, 2, torch.float64)
    strided = {
        **tensors,
        "x": torch.randn(8, 6, dtype=torch.float64).t().requires_grad_(),
        "weight": torch.randn(8, 4, dtype=torch.float64).t().requires_grad_(),
    }
    assert_as_exact_as_torch(strided, torch.float64)


def test_autocast_casts_inside_and_returns_float32_gradients():
    tensors = make((16, 8), 4, 2, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = gated_lora_linear(*(tensors[n] for n in NAMES), 2.0)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    exact = run(reference.gated_lora_linear, tensors, dtype=torch.float64)
    assert all(tensors[n].grad.dtype == torch.float32 for n in NAMES)
    assert (y.double() - exact["y"]).abs().max() / exact["y"].abs().max() < 2e-2


def test_float32_adapter_beside_a_bf16_base():
    tensors = make((32, 24), 16, 4, torch.bfloat16)
    for name in ("lora_a", "gate", "lora_b"):
        tensors[name] = tensors[name].detach().float().requires_grad_()
    exact = run(reference.gated_lora_linear, tensors, dtype=torch.float64)
    ours = run(gated_lora_linear, tensors)
    assert ours["y"].dtype == torch.bfloat16 and ours["d_lora_a"].dtype == torch.float32
    for name, value in ours.items():
        assert (value.double() - exact[name]).abs().max() / exact[name].abs().max() < 2e-2, name


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_activation_checkpointing(dropout):
    from torch.utils.checkpoint import checkpoint

    def grads(wrapped):
        tensors = make((7, 6), 5, 2, torch.float64)
        torch.manual_seed(11)
        call = lambda *a: gated_lora_linear(*a, 2.0, dropout).square()  # noqa: E731
        args = tuple(tensors[n] for n in NAMES)
        out = checkpoint(call, *args, use_reentrant=False) if wrapped else call(*args)
        out.sum().backward()
        return [t.grad for t in args]

    assert all(torch.equal(a, b) for a, b in zip(grads(False), grads(True), strict=True))


def test_compiles_without_graph_break():
    import torch._dynamo

    tensors = make((4, 6), 5, 2, torch.float32)
    compiled = torch.compile(lambda *a: gated_lora_linear(*a, 2.0), fullgraph=True, backend="aot_eager")
    y = compiled(*(tensors[n] for n in NAMES))
    y.sum().backward()
    torch.testing.assert_close(y, reference.gated_lora_linear(*(tensors[n] for n in NAMES), 2.0))
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lora_a": torch.zeros(2, 7)}, "lora_a (2, 7), want (2, 8)"),
        ({"gate": torch.zeros(3)}, "gate (3,), want (2,)"),
        ({"lora_b": torch.zeros(4, 1)}, "lora_b (4, 1), want (4, 2)"),
        ({"bias": torch.zeros(5)}, "bias (5,), want (4,)"),
        ({"x": torch.zeros(6, 9)}, "does not fit weight"),
        ({"x": torch.zeros(6, 8, dtype=torch.bfloat16)}, "outside autocast they must be equal"),
        ({"x": torch.zeros(6, 8, dtype=torch.int64)}, "must be floating point"),
        ({"weight": torch.zeros(4, 8, device="meta")}, "weight on meta"),
    ],
)
def test_refuses_by_name(change, words):
    tensors = {**make((6, 8), 4, 2, torch.float32), **change}
    with pytest.raises(ValueError) as error:
        gated_lora_linear(*(tensors[n] for n in NAMES), 1.0)
    assert words in str(error.value)


def test_backend_switch():
    tensors = make((6, 8), 4, 2, torch.float32)
    with use_backend("torch"):
        gated_lora_linear(*(tensors[n] for n in NAMES), 1.0)
    with pytest.raises(ValueError, match="'auto', 'triton', 'torch'"):
        use_backend("cuda")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="no GPU"):
            use_backend("triton")


def test_triton_asked_for_on_cpu_tensors_names_the_device(monkeypatch):
    from fulgurite.kernels import backend

    monkeypatch.setattr(backend, "_setting", "triton")
    tensors = make((6, 8), 4, 2, torch.float32)
    with pytest.raises(RuntimeError, match="tensor is on cpu"):
        gated_lora_linear(*(tensors[n] for n in NAMES), 1.0)

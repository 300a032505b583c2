"""What the tests of the log-probability kernels share: inputs, runs by name, and the comparison with float64."""

from __future__ import annotations

import torch

from fulgurite.kernels import reference

# Beyond plain torch's own error in the same dtype. float32: the order of summation (seen 3e-7 beyond); bf16 and fp16: one
# spacing of the largest entry, because hidden is rounded once more with the token's weight in it.
SLACK = {torch.float64: 1e-13, torch.float32: 5e-7, torch.bfloat16: 7.8e-3, torch.float16: 9.8e-4}
HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"logit_scale": 0.3},
    "softcap": {"softcap": 3.0, "logit_scale": 0.7, "bias": True},
    "lora": {"rank": 3, "gate": True},
    "all": {"rank": 2, "gate": False, "bias": True, "softcap": 5.0, "logit_scale": 1.5},
}


def make(
    shape, vocabulary, dtype, *, rank=0, gate=False, bias=False, adapter=None, device="cpu", trained=True, **settings
):
    """Arguments by name; numbers are drawn in their dtype, so that the float64 reference sees the very same ones."""
    g = torch.Generator().manual_seed(0)
    width = shape[-1]
    sizes = {"hidden": shape, "weight": (vocabulary, width)}
    sizes |= {"bias": (vocabulary,)} if bias else {}
    sizes |= {"lora_a": (rank, width), "lora_b": (vocabulary, rank)} if rank else {}
    sizes |= {"gate": (rank,)} if rank and gate else {}
    tensors = {
        name: (torch.randn(*size, generator=g) * (0.7 if name == "hidden" else 1)).to(dtype)
        for name, size in sizes.items()
    }
    for name in ("lora_a", "gate", "lora_b"):
        if name in tensors and adapter:
            tensors[name] = tensors[name].to(adapter)
    tensors = {name: t.to(device).requires_grad_(trained or name == "hidden") for name, t in tensors.items()}
    targets = torch.randint(0, vocabulary, shape[:-1], generator=g)
    targets[torch.rand(shape[:-1], generator=g) < 0.3] = -100
    scaling = {"scaling": 0.5} if rank else {}
    return {**tensors, "targets": targets.to(device), **scaling, **settings}


def run(function, arguments, dtype=None):
    """The function's result and each gradient by name, on copies of the arguments in ``dtype``."""
    own = {
        name: value.detach().to(dtype or value.dtype).requires_grad_(value.requires_grad)
        if isinstance(value, torch.Tensor) and value.is_floating_point()
        else value
        for name, value in arguments.items()
    }
    out = function(**own)
    if out.requires_grad:
        weights = torch.cos(torch.arange(out.numel(), device=out.device)).reshape(out.shape)
        out.backward(weights.to(out.dtype) if out.dim() else torch.full_like(out, 1.5))
    grads = {f"d_{n}": v.grad for n, v in own.items() if isinstance(v, torch.Tensor) and v.grad is not None}
    return {"out": out.detach(), **grads}


def assert_as_exact_as_torch(function, arguments, dtype):
    twin = getattr(reference, function.__name__)
    exact, plain, ours = run(twin, arguments, torch.float64), run(twin, arguments), run(function, arguments)
    assert ours.keys() == plain.keys() == exact.keys()
    for name, value in ours.items():
        assert value.dtype == plain[name].dtype and value.shape == plain[name].shape, name
        truth = exact[name].double()
        scale = truth.abs().max().clamp(min=1e-30) if truth.numel() else 1.0
        errors = [((v.double() - truth).abs().max() / scale if truth.numel() else 0.0) for v in (value, plain[name])]
        assert errors[0] <= errors[1] + SLACK[dtype], f"{name}: error {errors[0]:.2e}, plain torch's {errors[1]:.2e}"

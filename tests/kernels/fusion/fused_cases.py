"""What the tests of fused_log_probs share: inputs, runs by name, and the comparison with float64."""

from __future__ import annotations

import torch

from fulgurite.kernels import reference
from tests.kernels.log_probs.log_probs_cases import SLACK

HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"logit_scale": (0.3, 1.0, 2.0, 0.7)},
    "softcap": {"softcap": (3.0, None, 5.0, 2.0), "logit_scale": (0.7, 1.0, 1.5, 1.0), "bias": True},
    "lora": {"rank": 3},
}


def make(
    shape, vocabularies, dtype, *, number=3, shared=False, unequal=True, device="cpu", wanted=None,
    bias=False, rank=0, logit_scale=None, softcap=None, **settings,
):  # fmt: skip
    """Arguments by name. Widths differ between specialists unless they share a head; ``wanted`` names what is trained:
    "hidden0", "weight1", "gate_scores", …; None: everything."""
    g = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.randn(*size, generator=g).to(dtype).to(device)  # noqa: E731
    vocabularies = [vocabularies] * number if isinstance(vocabularies, int) else vocabularies
    widths = [shape[-1] + (0 if shared or not unequal else i) for i in range(number)]
    named = {f"hidden{i}": 0.7 * draw(*shape[:-1], widths[i]) for i in range(number)}
    named |= {f"weight{i}": draw(vocabularies[i], widths[i]) for i in range(1 if shared else number)}
    scores = torch.randn(*shape[:-1], number, generator=g).to(torch.promote_types(dtype, torch.float32))
    named["gate_scores"] = scores.to(device)
    for i in range(number):
        named |= {f"bias{i}": draw(vocabularies[i])} if bias and not (shared and i) else {}
        if rank:
            named |= {f"lora_a{i}": draw(rank, widths[i]), f"lora_b{i}": draw(vocabularies[i], rank)}
            named |= {f"gate{i}": draw(rank)} if i % 2 else {}
    named = {n: t.detach().requires_grad_(wanted is None or n in wanted) for n, t in named.items()}
    targets = torch.randint(0, min(vocabularies), shape[:-1], generator=g)
    targets[torch.rand(shape[:-1], generator=g) < 0.3] = -100
    fixed = [
        {
            key: value[i]
            for key, value in (
                ("logit_scale", logit_scale),
                ("softcap", softcap),
                ("scaling", [0.5] * 4 if rank else None),
            )
            if value is not None
        }
        for i in range(number)
    ]
    return {"named": named, "fixed": fixed, "targets": targets.to(device), "shared": shared, **settings}


def call(function, arguments, named=None):
    """The function on these arguments, or on others of the same names."""
    named = named or arguments["named"]
    number = len(arguments["fixed"])
    options = [
        {key: named[f"{key}{i}"] for key in ("bias", "lora_a", "gate", "lora_b") if f"{key}{i}" in named} | fixed
        for i, fixed in enumerate(arguments["fixed"])
    ]
    weights = named["weight0"] if arguments["shared"] else [named[f"weight{i}"] for i in range(number)]
    if arguments["shared"]:
        options = options[0]
    rest = {k: v for k, v in arguments.items() if k not in ("named", "fixed", "targets", "shared")}
    hiddens = [named[f"hidden{i}"] for i in range(number)]
    return function(hiddens, weights, named["gate_scores"], arguments["targets"], options=options, **rest)


def run(function, arguments, dtype=None):
    """The function's result and each gradient by name, on copies of the arguments in ``dtype``."""
    own = {n: t.detach().to(dtype or t.dtype).requires_grad_(t.requires_grad) for n, t in arguments["named"].items()}
    out = call(function, arguments, own)
    if out.requires_grad:
        factors = torch.cos(torch.arange(out.numel(), device=out.device)).reshape(out.shape)
        out.backward(factors.to(out.dtype))
    return {"out": out.detach(), **{f"d_{n}": t.grad for n, t in own.items() if t.grad is not None}}


def assert_as_exact_as_torch(function, arguments, dtype, slack=None):
    twin = getattr(reference, function.__name__)
    exact, plain, ours = run(twin, arguments, torch.float64), run(twin, arguments), run(function, arguments)
    assert ours.keys() == plain.keys() == exact.keys()
    for name, value in ours.items():
        assert value.dtype == plain[name].dtype and value.shape == plain[name].shape, name
        truth = exact[name].double()
        scale = truth.abs().max().clamp(min=1e-30) if truth.numel() else 1.0
        errors = [((v.double() - truth).abs().max() / scale if truth.numel() else 0.0) for v in (value, plain[name])]
        allowed = errors[1] + (SLACK[dtype] if slack is None else slack)
        assert errors[0] <= allowed, f"{name}: error {errors[0]:.2e}, plain torch's {errors[1]:.2e}"

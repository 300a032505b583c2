"""The one-launch AdamW and proximal step in Triton, against its float64 twin. Runs like test_triton_gated_lora.py."""

from __future__ import annotations

import os

import pytest
import torch

from fulgurite.kernels import proximal_adamw_step_, reference, use_backend

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU; test_triton_interpreter.py runs this file without one", allow_module_level=True)
DEVICE = "cpu" if INTERPRETED else "cuda"

VALUES = [0.35, 0.25, 0.19, 0.15, 0.11, 0.05, -0.15, -0.30]
# Measured by running the authors' released statements at threshold 0.1.
RULES = {
    "reference": [0.25, 0.15, 0.0, 0.0, 0.0, 0.0, 0.0, -0.20],
    "soft": [0.25, 0.15, 0.09, 0.05, 0.01, 0.0, -0.05, -0.20],
}


@pytest.fixture(autouse=True)
def _triton(_restore_global_state):
    use_backend("triton")


def steps(function, param, count, **options):
    """``count`` steps from zero moments at a threshold that zeroes some; returns the parameter, both moments and the step count."""
    state = [torch.zeros_like(param), torch.zeros_like(param)]
    step = torch.zeros((), device=param.device)
    arguments = dict(lr=1e-2, beta1=0.9, beta2=0.999, eps=1e-6, weight_decay=0.0, threshold=8e-3, prox="soft")
    for i in range(count):
        grad = torch.sin(torch.arange(param.numel(), dtype=param.dtype, device=param.device) + i)
        function(param, grad, *state, step=step, **{**arguments, **options})
    return {"param": param, "exp_avg": state[0], "exp_avg_sq": state[1], "step": step}


def start(n):
    return torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).float().to(DEVICE)


@pytest.mark.parametrize("prox", ["soft", "reference"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.95)], ids=str)
def test_equals_its_twin_over_fifty_steps(prox, weight_decay, betas):
    options = dict(prox=prox, weight_decay=weight_decay, beta1=betas[0], beta2=betas[1])
    ours = steps(proximal_adamw_step_, start(300), 50, **options)
    use_backend("torch")
    plain = steps(proximal_adamw_step_, start(300), 50, **options)
    twin = steps(reference.proximal_adamw_step_, start(300).double(), 50, **options)
    for name, value in ours.items():
        errors = [(v.double() - twin[name].double()).abs().max() for v in (value, plain[name])]
        assert errors[0] <= errors[1] + 3e-7, f"{name}: error {errors[0]:.2e}, plain torch's {errors[1]:.2e}"
    zero = twin["param"] == 0
    assert ((ours["param"] == 0) == zero).all() and zero.any()


@pytest.mark.parametrize("n", [1, 2048, 3584, 8192, 8193, 20_000])
def test_sizes_of_one_and_of_several_programs(n):
    ours = steps(proximal_adamw_step_, start(n), 3)
    twin = steps(reference.proximal_adamw_step_, start(n).double(), 3)
    for name, value in ours.items():
        torch.testing.assert_close(
            value.double(), twin[name].double(), rtol=1e-5, atol=2e-7, msg=lambda m, k=name: f"{k}: {m}"
        )


def test_the_first_step_is_as_exact_as_the_formula():
    """1 − β₂ from a rounded β₂ would be 1.3e-5 off here."""
    ours = steps(proximal_adamw_step_, start(100), 1, threshold=0.0)
    twin = steps(reference.proximal_adamw_step_, start(100).double(), 1, threshold=0.0)
    moved, should = ours["param"].double() - start(100).double(), twin["param"] - start(100).double()
    assert ((moved - should).abs() < 3e-7).all()
    torch.testing.assert_close(ours["exp_avg_sq"].double(), twin["exp_avg_sq"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("prox", list(RULES))
def test_rules(prox):
    values = torch.tensor([*VALUES, float("nan")], device=DEVICE)
    result = steps(proximal_adamw_step_, values, 1, lr=0.0, threshold=0.1, prox=prox)["param"].cpu()
    torch.testing.assert_close(result[:-1], torch.tensor(RULES[prox]))
    assert result[-1].isnan()
    zeros = torch.tensor(RULES[prox]) == 0
    assert not result[:-1][zeros].any()


def test_the_count_lives_on_the_device_and_nothing_else_is_written():
    values, step = start(10), torch.full((), 6.0, device=DEVICE)
    arena = torch.full((30,), 7.0, device=DEVICE)
    arena[10:20] = values
    moments = [torch.zeros(10, device=DEVICE), torch.zeros(10, device=DEVICE)]
    proximal_adamw_step_(
        arena[10:20], torch.ones(10, device=DEVICE), *moments,
        step=step, lr=1e-2, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, threshold=0.0,
    )  # fmt: skip
    assert step.item() == 7.0
    assert (arena[:10] == 7).all() and (arena[20:] == 7).all() and (arena[10:20] != values).all()


def test_the_optimizer_takes_it_and_arrives_where_torch_arrives():
    from fulgurite.optim import ProximalAdamW

    def train(backend):
        use_backend(backend)
        params = [torch.nn.Parameter(start(5) * (i + 1)) for i in range(4)]
        optimizer = ProximalAdamW([{"params": params, "lr": 1e-2, "weight_decay": 0.0, "threshold": 5e-3}])
        for step in range(20):
            optimizer.zero_grad()
            for i, p in enumerate(params):
                (p * torch.cos(torch.arange(5, device=DEVICE) * (i + 1) + step)).sum().backward()
            optimizer.step()
        return torch.cat([p.detach() for p in params])

    torch.testing.assert_close(train("triton"), train("torch"), rtol=1e-5, atol=1e-6)


def test_refuses_by_name():
    with pytest.raises(RuntimeError, match=r"param is torch\.float64"):
        steps(proximal_adamw_step_, start(5).double(), 1)
    with pytest.raises(RuntimeError, match="param not contiguous"):
        steps(proximal_adamw_step_, start(10)[::2], 1)
    state = [torch.zeros(5, device=DEVICE) for _ in range(2)]
    with pytest.raises(ValueError, match="equally many"):
        proximal_adamw_step_(
            start(5), torch.ones(4, device=DEVICE), *state, step=torch.zeros((), device=DEVICE),
            lr=0.1, beta1=0.9, beta2=0.9, eps=1e-8, weight_decay=0.0, threshold=0.0,
        )  # fmt: skip

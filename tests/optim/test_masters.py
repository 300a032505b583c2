"""Weights in half precision are stepped in float32: the master's path is that of a float32 weight, and it survives a resume."""

import copy

import pytest
import torch

from fulgurite.optim import ProximalAdamW
from fulgurite.optim.masters import rounded

OPTIONS = [{}, {"fused": True}, {"foreach": True}, {"fused": False, "foreach": False}]


def gradients(steps: int, *shape: int) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(*shape).bfloat16() for _ in range(steps)]


def weight(dtype: torch.dtype) -> torch.nn.Parameter:
    torch.manual_seed(0)
    return torch.nn.Parameter(torch.randn(30, 40).bfloat16().to(dtype))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_small_steps_add_up_as_in_float32(dtype: torch.dtype, options: dict[str, bool]) -> None:
    narrow, wide = weight(dtype), weight(torch.float32)
    start = wide.detach().clone()
    ours = ProximalAdamW([narrow], lr=1e-5, weight_decay=0.1, **options)
    exact = torch.optim.AdamW([wide], lr=1e-5, weight_decay=0.1)
    for grad in gradients(20, 30, 40):
        narrow.grad, wide.grad = grad.to(dtype), grad.float()
        ours.step()
        exact.step()
    master = ours.state[narrow]["master"]
    torch.testing.assert_close(master, wide.detach(), rtol=1e-6, atol=1e-9)
    assert torch.equal(narrow.detach(), rounded(master, dtype))
    assert bool((master != start).all())  # every weight has moved, though few of the rounded ones have


def test_a_resumed_run_goes_on_with_the_same_bits() -> None:
    grads = gradients(10, 30, 40)
    whole, part = weight(torch.bfloat16), weight(torch.bfloat16)
    one, two = ProximalAdamW([whole], lr=1e-4), ProximalAdamW([part], lr=1e-4)
    for i, grad in enumerate(grads):
        whole.grad, part.grad = grad.clone(), grad.clone()
        one.step()
        two.step()
        if i == 4:
            saved, value = copy.deepcopy(two.state_dict()), part.detach().clone()
            part = torch.nn.Parameter(value)
            two = ProximalAdamW([part], lr=1e-4)
            two.load_state_dict(saved)
    assert torch.equal(one.state[whole]["master"], two.state[part]["master"])
    assert torch.equal(one.state[whole]["exp_avg_sq"], two.state[part]["exp_avg_sq"])
    assert two.state[part]["exp_avg_sq"].dtype == torch.float32


def test_a_state_saved_without_masters_is_widened() -> None:
    """As torch.optim.AdamW, and ProximalAdamW before there were masters, have it."""
    narrow = weight(torch.bfloat16)
    old = torch.optim.AdamW([narrow], lr=1e-4)
    narrow.grad = gradients(1, 30, 40)[0]
    old.step()
    moments = old.state[narrow]["exp_avg"].clone()
    new = ProximalAdamW([narrow], lr=1e-4)
    new.load_state_dict(old.state_dict())
    before = narrow.detach().float()
    narrow.grad = torch.zeros_like(narrow)
    new.step()
    state = new.state[narrow]
    assert state["master"].dtype == state["exp_avg"].dtype == torch.float32 and int(state["step"]) == 2
    torch.testing.assert_close(state["exp_avg"], moments.float() * 0.9)
    assert float((state["master"] - before).abs().max()) < 1.1e-4


def test_what_somebody_writes_into_the_weight_counts() -> None:
    narrow = weight(torch.bfloat16)
    ours = ProximalAdamW([narrow], lr=1e-5, weight_decay=0.0)
    narrow.grad = gradients(1, 30, 40)[0]
    ours.step()
    kept = ours.state[narrow]["master"].clone()
    with torch.no_grad():
        narrow[0] = 3.0
    narrow.grad = torch.zeros_like(narrow)
    ours.step()
    master = ours.state[narrow]["master"]
    torch.testing.assert_close(master[0], torch.full_like(master[0], 3.0), rtol=0, atol=2e-5)
    torch.testing.assert_close(master[1:], kept[1:], rtol=0, atol=2e-5)


def test_float32_and_half_precision_stand_in_one_group() -> None:
    narrow, wide = weight(torch.bfloat16), weight(torch.float32)
    ours = ProximalAdamW([narrow, wide], lr=1e-3)
    for grad in gradients(3, 30, 40):
        narrow.grad, wide.grad = grad, grad.float()
        ours.step()
    assert "master" not in ours.state[wide] and wide.dtype == torch.float32
    torch.testing.assert_close(ours.state[narrow]["master"], wide.detach())


def test_the_working_copy_follows_steps_far_below_its_precision() -> None:
    """A third of the distance to the neighbour: a third of the weights has changed, their mean is the masters', and nobody
    would have changed by rounding to the nearest."""
    start = torch.linspace(0.5, 1.0, 129)[:-1].repeat(3000).reshape(640, 600)  # neighbours are 1/256 apart
    for sign in (1.0, -1.0):
        master = sign * (start + 1 / 768)
        assert torch.equal(master.bfloat16().float(), sign * start)
        copy = rounded(master, torch.bfloat16).float()
        assert set((copy - sign * start).unique().tolist()) == {0.0, sign / 256}
        assert abs(float((copy != sign * start).float().mean()) - 1 / 3) < 2e-3
        assert abs(float((copy - master).mean())) < 1e-5
        assert torch.equal(copy, rounded(master, torch.bfloat16).float())  # fixed points, nothing is drawn


def test_rounding_keeps_what_bfloat16_holds_and_what_is_not_finite() -> None:
    torch.manual_seed(0)
    held = torch.randn(70_000).bfloat16()
    assert torch.equal(rounded(held.float(), torch.bfloat16), held)
    assert torch.equal(rounded(held.float()[None, :6].T, torch.bfloat16), held[:6, None])
    odd = torch.tensor([0x7FFFFFFF, -1, 0x7F800001], dtype=torch.int32).view(torch.float32)  # NaNs, a GPU's own first
    assert bool(rounded(odd, torch.bfloat16).isnan().all())
    edges = torch.tensor([float("inf"), float("-inf"), 0.0, -0.0])
    assert rounded(edges, torch.bfloat16).tolist() == edges.tolist()
    assert torch.equal(rounded(held.float() * 1.001, torch.float16), (held.float() * 1.001).half())
    assert rounded(torch.empty(0, 3), torch.bfloat16).shape == (0, 3)


def test_float32_weights_that_autocast_casts_follow_their_masters() -> None:
    """The path is that of a bfloat16 weight; given up, the weight takes its master's values and is stepped itself."""
    narrow, wide, exact = weight(torch.bfloat16), weight(torch.float32), weight(torch.float32)
    beside = torch.nn.Parameter(torch.ones(3))
    ours, cast = ProximalAdamW([narrow], lr=1e-5), ProximalAdamW([wide, beside], lr=1e-5)
    reference = torch.optim.AdamW([exact], lr=1e-5)
    cast.keep_masters([wide])
    for grad in gradients(20, 30, 40):
        narrow.grad, wide.grad, beside.grad, exact.grad = grad, grad.float(), torch.ones(3), grad.float()
        for optimizer in (ours, cast, reference):
            optimizer.step()
    assert wide.dtype == torch.float32 and torch.equal(wide, narrow.float())
    assert torch.equal(cast.state[wide]["master"], ours.state[narrow]["master"])
    assert "master" not in cast.state[beside]

    kept = torch.nn.Parameter(wide.detach().clone())
    going_on = ProximalAdamW([kept, torch.nn.Parameter(beside.detach().clone())], lr=1e-5)
    going_on.keep_masters([kept])
    going_on.load_state_dict(copy.deepcopy(cast.state_dict()))
    kept.grad = torch.ones(30, 40)
    going_on.step()
    assert torch.equal(kept, rounded(going_on.state[kept]["master"], torch.bfloat16).float())

    again = torch.nn.Parameter(wide.detach().clone())
    resumed = ProximalAdamW([again, torch.nn.Parameter(beside.detach().clone())], lr=1e-5)
    resumed.load_state_dict(copy.deepcopy(cast.state_dict()))
    again.grad, exact.grad = torch.ones(30, 40), torch.ones(30, 40)
    resumed.step()
    reference.step()
    assert "master" not in resumed.state[again]
    torch.testing.assert_close(again, exact, rtol=1e-6, atol=1e-9)

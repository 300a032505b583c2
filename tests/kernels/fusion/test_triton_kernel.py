"""The Triton kernel of fused_log_probs: against float64 and plain torch's own error, and what it promises.

On a GPU this file runs as it is. Without one, test_triton_interpreter.py runs it in a process of its own under Triton's
interpreter, which must be on before the kernels are imported.
"""

from __future__ import annotations

import os

import pytest
import torch

from fulgurite.kernels import fused_log_probs, linear_log_probs, reference, use_backend
from tests.kernels.fusion.fused_cases import HEADS, assert_as_exact_as_torch, call, make, run
from tests.kernels.log_probs.log_probs_cases import SLACK

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU; test_triton_interpreter.py runs this file without one", allow_module_level=True)
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = pytest.mark.parametrize("dtype", [d for d in SLACK if d != torch.float64], ids=str)


@pytest.fixture(autouse=True)
def _triton(_restore_global_state):
    use_backend("triton")


@pytest.fixture
def small_tiles(monkeypatch):
    """Blocks of 16, chunks of 4 tokens or of a few columns: small inputs take many of each, ragged at the end."""
    from fulgurite.kernels.fusion import triton_kernel as triton_fused

    sizes = {"BLOCKS": {1: 16, 2: 16, 4: 16}, "MIN_HEIGHT": 4, "CHUNK": 300, "MIN_WIDTH": 12}
    for name, value in sizes.items():
        monkeypatch.setattr(triton_fused, name, value)


def given(shape, vocabularies, dtype, **more):
    return make(shape, vocabularies, dtype, device=DEVICE, **more)


@DTYPES
@pytest.mark.parametrize("head", list(HEADS))
def test_forward_and_gradients(dtype, head, small_tiles, poisoned_memory):
    assert_as_exact_as_torch(fused_log_probs, given((2, 9, 5), (70, 81, 75), dtype, **HEADS[head]), dtype)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize(("shape", "vocabulary"), [((1, 8), 16), ((30, 7), 31), ((3, 4), 3000), ((5, 3), 1)], ids=str)
def test_tiles_of_their_real_size(number, shape, vocabulary, poisoned_memory):
    assert_as_exact_as_torch(fused_log_probs, given(shape, vocabulary, torch.float32, number=number), torch.float32)


@pytest.mark.parametrize(
    "wanted",
    [("gate_scores",), ("hidden1",), ("hidden0", "gate_scores"), ("weight2",), ("bias0", "hidden1"), ("lora_a0", "gate1"), ()],
    ids=str,
)  # fmt: skip
def test_only_what_is_wanted(wanted, small_tiles):
    arguments = given((20, 6), 40, torch.float32, wanted=wanted, bias=True, rank=2)
    assert set(run(fused_log_probs, arguments)) == {"out", *(f"d_{name}" for name in wanted)}
    assert_as_exact_as_torch(fused_log_probs, arguments, torch.float32)


@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
def test_logits_that_climb_through_the_vocabulary(falling, small_tiles):
    arguments = given((20, 6), 90, torch.float32, bias=True)
    slope = torch.arange(90.0, device=DEVICE) * 2.5
    with torch.no_grad():
        arguments["named"]["bias1"].copy_(slope.flip(0) if falling else slope)
        arguments["targets"][1::2] = torch.arange(10, device=DEVICE)
    assert_as_exact_as_torch(fused_log_probs, arguments, torch.float32, 1e-5)


def test_equal_specialists_and_a_one_hot_gate(small_tiles):
    arguments = given((12, 6), 40, torch.float32)
    named = arguments["named"]
    gate = torch.full((12, 3), -torch.inf, device=DEVICE)
    gate[:, 1] = 0
    use_backend("torch")
    expected = linear_log_probs(named["hidden1"], named["weight1"], arguments["targets"])
    use_backend("triton")
    torch.testing.assert_close(call(fused_log_probs, arguments, {**named, "gate_scores": gate}), expected)
    same = fused_log_probs(
        [named["hidden1"]] * 3, [named["weight1"].clone() for _ in range(3)], named["gate_scores"], arguments["targets"]
    )
    torch.testing.assert_close(same, expected)


@DTYPES
def test_two_runs_agree_bit_for_bit(dtype, small_tiles):
    arguments = given((30, 6), 70, dtype, bias=True)
    first, second = run(fused_log_probs, arguments), run(fused_log_probs, arguments)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_no_supervised_token():
    arguments = given((5, 6), 9, torch.float32, bias=True)
    arguments["targets"] = torch.full((5,), -100, device=DEVICE)
    assert all(not value.any() for value in run(fused_log_probs, arguments).values())


def test_float64_is_refused_by_name_and_left_to_pytorch():
    arguments = given((6, 8), 10, torch.float64)
    with pytest.raises(RuntimeError, match=r"hidden is torch\.float64; the Triton kernel takes bfloat16"):
        call(fused_log_probs, arguments)
    use_backend("auto")
    torch.testing.assert_close(call(fused_log_probs, arguments), call(reference.fused_log_probs, arguments))

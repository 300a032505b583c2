"""The Triton kernel of linear_log_probs and its kin: against float64 and plain torch's own error, and what it promises.

On a GPU this file runs as it is. Without one, test_triton_interpreter.py runs it in a process of its own under
Triton's interpreter, which must be on before the kernels are imported.
"""

from __future__ import annotations

import os

import pytest
import torch

from fulgurite.kernels import linear_cross_entropy, linear_log_probs, linear_token_scores, reference, use_backend
from tests.kernels.log_probs.log_probs_cases import HEADS, SLACK, assert_as_exact_as_torch, make, run

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU; test_triton_interpreter.py runs this file without one", allow_module_level=True)
DEVICE = "cpu" if INTERPRETED else "cuda"

BOTH = pytest.mark.parametrize("function", [linear_log_probs, linear_cross_entropy], ids=lambda f: f.__name__)
DTYPES = pytest.mark.parametrize("dtype", [d for d in SLACK if d != torch.float64], ids=str)


@pytest.fixture(autouse=True)
def _triton(_restore_global_state):
    use_backend("triton")


@pytest.fixture
def small_tiles(monkeypatch):
    """Blocks of 16, chunks of 4 tokens or of a few columns: small inputs take many of each, ragged at the end."""
    from fulgurite.kernels.log_probs import triton_kernel as triton_log_probs

    sizes = {"BLOCK": 16, "MIN_HEIGHT": 4, "CHUNK": 300, "SLICE": 10, "MIN_WIDTH": 12}
    for name, value in sizes.items():
        monkeypatch.setattr(triton_log_probs, name, value)


def given(shape, vocabulary, dtype, **head):
    return make(shape, vocabulary, dtype, device=DEVICE, **head)


@BOTH
@DTYPES
@pytest.mark.parametrize("head", list(HEADS))
def test_forward_and_gradients(function, dtype, head, small_tiles, poisoned_memory):
    assert_as_exact_as_torch(function, given((2, 9, 5), 70, dtype, **HEADS[head]), dtype)


@BOTH
@DTYPES
@pytest.mark.parametrize(("shape", "vocabulary"), [((1, 8), 16), ((30, 7), 31), ((3, 4), 5000)], ids=str)
def test_tiles_of_their_real_size(function, dtype, shape, vocabulary, poisoned_memory):
    assert_as_exact_as_torch(function, given(shape, vocabulary, dtype, bias=True), dtype)


@BOTH
@pytest.mark.parametrize("wanted", [("hidden",), ("weight",), ("bias",), ("lora_a",), ("gate", "lora_b")], ids=str)
def test_only_what_is_needed(function, wanted, small_tiles):
    arguments = given((20, 6), 40, torch.float32, rank=2, gate=True, bias=True)
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            value.requires_grad_(name in wanted)
    assert set(run(function, arguments)) == {"out", *(f"d_{name}" for name in wanted)}
    assert_as_exact_as_torch(function, arguments, torch.float32)


@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
@BOTH
def test_logits_that_climb_through_the_vocabulary(function, falling, small_tiles):
    arguments = given((20, 6), 90, torch.float32, bias=True)
    slope = torch.arange(90.0) * 2.5
    with torch.no_grad():
        arguments["bias"].copy_(slope.flip(0) if falling else slope)
        arguments["targets"][1::2] = torch.arange(10)
    assert_as_exact_as_torch(function, arguments, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_confident_token_keeps_its_gradient(dtype):
    weight = torch.tensor([[9.0, 0.5], [0.0, 0.25], [0.0, 0.125]], dtype=dtype, device=DEVICE)
    hidden = torch.tensor([[1.0, 0.0]], dtype=dtype, device=DEVICE, requires_grad=True)
    targets = torch.tensor([0], device=DEVICE)
    found = linear_log_probs(hidden, weight, targets)
    found.sum().backward()
    double = hidden.detach().double().requires_grad_()
    exact = reference.linear_log_probs(double, weight.double(), targets)
    exact.sum().backward()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(hidden.grad.double(), double.grad, rtol=max(5e-6, 2 * eps), atol=0)
    torch.testing.assert_close(found.detach().double(), exact.detach(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("head", list(HEADS))
def test_scores(head, small_tiles, poisoned_memory):
    arguments = given((40, 6), 70, torch.float32, **HEADS[head])
    with torch.no_grad():
        logits = torch.nn.functional.linear(arguments["hidden"], arguments["weight"])
        arguments["targets"][::3] = logits.argmax(-1)[::3]
    found, exact = linear_token_scores(**arguments), reference.linear_token_scores(**arguments)
    assert torch.equal(found.correct, exact.correct) and found.correct.any() and not found.correct.all()
    torch.testing.assert_close(found.log_probs, exact.log_probs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.entropy, exact.entropy, rtol=1e-5, atol=1e-5)


def test_of_equal_logits_the_first_is_the_prediction(small_tiles):
    hidden, weight = torch.ones(4, 2, device=DEVICE), torch.zeros(50, 2, device=DEVICE)
    weight[[7, 20, 40]] = 1
    correct = linear_token_scores(hidden, weight, torch.tensor([7, 20, 40, 3], device=DEVICE)).correct
    assert correct.tolist() == [True, False, False, False]


@BOTH
@pytest.mark.parametrize("vocabulary", [1, 2])
def test_a_vocabulary_of_one_or_two(function, vocabulary):
    assert_as_exact_as_torch(function, given((5, 3), vocabulary, torch.float32), torch.float32)


@BOTH
def test_no_supervised_token(function):
    arguments = given((5, 6), 9, torch.float32, rank=2, gate=True, bias=True)
    arguments["targets"] = torch.full_like(arguments["targets"], -100)
    assert all(not value.any() for value in run(function, arguments).values())


@BOTH
@DTYPES
def test_two_runs_agree_bit_for_bit(function, dtype, small_tiles):
    arguments = given((30, 6), 70, dtype, bias=True)
    first, second = run(function, arguments), run(function, arguments)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
def test_float16_gradients_are_not_lost_before_the_loss_scale(trained):
    arguments = given((300, 4), 3000, torch.float16, trained=trained)
    arguments["hidden"].data.mul_(1e-3)
    wide = {
        n: v.detach().double().requires_grad_(v.requires_grad) if v.is_floating_point() else v
        for n, v in arguments.items()
    }
    (linear_cross_entropy(**arguments) * 2**16).backward()
    (reference.linear_cross_entropy(**wide) * 2**16).backward()
    for name in ("hidden", "weight")[: 1 + trained]:
        error = (arguments[name].grad.double() - wide[name].grad).norm() / wide[name].grad.norm()
        assert error < 2e-3, name


@BOTH
def test_compiles_without_graph_break(function):
    torch._dynamo.reset()
    arguments = given((9, 6), 40, torch.float32, rank=2, gate=True, softcap=4.0)
    backend = "aot_eager" if INTERPRETED else "inductor"
    compiled = torch.compile(lambda **named: function(**named), fullgraph=True, backend=backend)
    found, expected = run(compiled, arguments), run(function, arguments)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name, rtol=1e-5, atol=1e-6)
    torch._dynamo.reset()


def test_float64_is_refused_by_name_and_left_to_pytorch():
    arguments = given((6, 8), 10, torch.float64)
    with pytest.raises(RuntimeError, match=r"hidden is torch\.float64; the Triton kernel takes bfloat16"):
        linear_log_probs(**arguments)
    use_backend("auto")
    torch.testing.assert_close(linear_log_probs(**arguments), reference.linear_log_probs(**arguments))

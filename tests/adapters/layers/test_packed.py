"""Packed linear layers: gradients are those of the unpacked weight, which nothing keeps; bitsandbytes' traps stay shut."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from fulgurite.adapters import APET, LoRA, SoRA, attach
from fulgurite.adapters.layers.packed import packed_keys, unpacker_of
from fulgurite.kernels import gated_lora_linear
from fulgurite.kernels.low_rank.packed import packed_lora_linear
from fulgurite.models.quantised import keep_plain


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("rank", [0, 3])
def test_the_operator_is_the_dense_one_and_keeps_no_weight(dtype: torch.dtype, gated: bool, rank: int) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(7, 5, dtype=dtype), torch.randn(7, dtype=dtype)
    x = torch.randn(2, 4, 5, dtype=dtype)
    factors = [torch.randn(rank, 5), torch.randn(rank) if gated else None, torch.randn(7, rank)]
    made: list[Any] = []

    def unpack(wanted: torch.dtype) -> torch.Tensor:
        whole = weight.to(wanted, copy=True)
        made.append(weakref.ref(whole))
        return whole

    results = []
    for packed in (True, False):
        inputs = [x.clone().requires_grad_(), *(None if f is None else f.clone().requires_grad_() for f in factors)]
        function: Any = packed_lora_linear if packed else gated_lora_linear
        torch.manual_seed(1)
        y = function(inputs[0], unpack if packed else weight, bias, *inputs[1:], 0.7, 0.25)
        if packed:
            assert len(made) == 1 and made[0]() is None
        y.float().pow(2).sum().backward()
        results.append([y, *(t.grad for t in inputs if t is not None)])
    assert len(made) == 2 and made[1]() is None  # once in the forward, once in the backward
    for mine, dense in zip(*results, strict=True):
        assert torch.equal(mine, dense)


class Two(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        bnb = pytest.importorskip("bitsandbytes")
        torch.manual_seed(0)
        plain = nn.ModuleList([nn.Linear(128, 128), nn.Linear(128, 128)])
        options: dict[str, Any] = {"has_fp16_weights": False, "threshold": 6.0}
        if kind == "nf4":
            options = {"quant_type": "nf4", "compute_dtype": torch.float32}
        cls = bnb.nn.Linear4bit if kind == "nf4" else bnb.nn.Linear8bitLt
        self.blocks = nn.ModuleList([cls(128, 128, **options) for _ in range(2)])
        self.blocks.load_state_dict(plain.state_dict())
        self.blocks.to("cpu")
        keep_plain(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks[1](torch.tanh(self.blocks[0](x)))


def dense(model: nn.Module) -> nn.Module:
    """The same with weights in full."""
    twin = copy.deepcopy(model)
    twin.blocks = nn.ModuleList([nn.Linear(128, 128) for _ in range(2)])
    for mine, layer in zip(model.blocks, twin.blocks, strict=True):
        unpack = unpacker_of(type(mine))
        assert unpack is not None
        layer.weight.data.copy_(unpack(mine, torch.float32))
        layer.bias.data.copy_(mine.bias)
    return twin


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("config", [LoRA(rank=4, dropout=0.1), SoRA(rank=4)])
def test_bitsandbytes_layers_train_as_the_unpacked_weights_do(kind: str, config: Any) -> None:
    model = Two(kind)
    twin, x = dense(model), torch.randn(3, 128)
    trained = []
    for network in (model, twin):
        torch.manual_seed(2)
        adapter = attach(network, config)
        for branch in adapter.branches.values():
            nn.init.normal_(branch.lora_b, std=0.1)
        torch.manual_seed(3)
        network(x).pow(2).sum().backward()
        trained.append([p.grad for branch in adapter.branches.values() for p in branch.parameters()])
        network.eval()
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True)) and trained[0][0].abs().sum() > 0
    with torch.no_grad():
        assert torch.equal(model(x), twin(x))
    with adapter.disabled(), torch.no_grad():
        base = twin(x)
    adapter = next(iter(model._fulgurite_site.adapters.values()))
    with adapter.disabled(), torch.no_grad():
        assert torch.equal(model(x), base)
    reason = rf"the weight of blocks\.0 is quantised \(torch\.{'uint8' if kind == 'nf4' else 'int8'}\); load the base in full"
    with pytest.raises(RuntimeError, match=reason):
        adapter.merge()
    assert not adapter.can_merge


def test_a_forward_in_evaluation_mode_does_not_cut_gradients_of_later_training() -> None:
    """On AVX512-BF16 bitsandbytes repacks the weight then, and computes in training without a gradient to its input."""
    model = Two("nf4")
    x = torch.randn(3, 128)
    with torch.no_grad():
        model.eval()(x)
    adapter = attach(model, LoRA(rank=2, targets=r"blocks\.0"))  # blocks.1 keeps bitsandbytes' own forward
    for branch in adapter.branches.values():
        nn.init.normal_(branch.lora_b)
    model.train()(x).pow(2).sum().backward()
    assert adapter.branches["blocks.0"].lora_a.grad.abs().sum() > 0
    exact = dense(Two("nf4"))
    with torch.no_grad(), adapter.disabled():
        torch.testing.assert_close(model.eval()(x), exact(x))


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_checkpoints_hold_the_adapter_alone_and_old_ones_are_read(kind: str) -> None:
    model = Two(kind)
    adapter = attach(model, LoRA(rank=2))
    state = model.state_dict()
    scales = packed_keys(model)
    assert scales and set(scales.values()) == {"blocks.0.weight", "blocks.1.weight"} and scales.keys() <= state.keys()
    kept = {
        key: value * 2 if "lora" in key else value for key, value in state.items() if key not in adapter.frozen_keys()
    }
    assert all(".branches." in key for key in kept)
    old = {**kept, **{key: state[key] for key in scales}}
    for saved in (kept, old):
        other = Two(kind)
        there = attach(other, LoRA(rank=2))
        other.load_state_dict(dict(saved))
        assert torch.equal(there.branches["blocks.0"].lora_a, kept["blocks.0.branches.default.lora_a"])
        assert torch.equal(other.blocks[0].weight, model.blocks[0].weight)
    with pytest.raises(ValueError, match=r"APET: blocks\.0\.weight of Linear\w+ is quantised or packed \(\w+\)"):
        attach(Two(kind), APET(budget=3))


class Packed(nn.Module):
    """As GPTQ's and AWQ's layers are: no linear layer, and the weight a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("qweight", torch.zeros(4, 4, dtype=torch.int32))


def test_layers_that_cannot_carry_a_branch_are_named() -> None:
    model = nn.Sequential(nn.ModuleList([Packed(), nn.Linear(4, 4)]), nn.Linear(4, 4))
    words = r"attach: 0\.0 is a Packed, which keeps its weight packed in a form of its own and cannot carry a low-rank branch"
    for targets in ("all-linear", r"0\..*"):
        with pytest.raises(ValueError, match=words):
            attach(model, LoRA(rank=2, targets=targets))
    assert attach(model, LoRA(rank=2, targets=r"0\.1")).layer_names == ["0.1"]


def test_a_weight_of_torchao_keeps_its_own_forward_and_is_not_merged() -> None:
    kind = type("FakeInt4Tensor", (torch.Tensor,), {"__module__": "torchao.fake"})
    model = nn.Sequential(nn.ModuleList([nn.Linear(4, 4)]))
    model.forward = lambda x: model[0][0](x)  # type: ignore[method-assign]
    x = torch.randn(2, 4)
    expected = model(x)
    model[0][0].weight = nn.Parameter(model[0][0].weight.data.as_subclass(kind), requires_grad=False)
    adapter = attach(model, LoRA(rank=2))
    torch.testing.assert_close(model(x).as_subclass(torch.Tensor), expected)
    with pytest.raises(RuntimeError, match="is quantised"):
        adapter.merge()

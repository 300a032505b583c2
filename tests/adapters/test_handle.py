"""Names that are used again, other adapters that are merged, hooks that must go, and graphs that are gone through twice."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fulgurite.adapters import APET, Bottleneck, LoRA, SoftPrompt, SoRA, attach, find_adapters, load_adapter
from tests.adapters.toys import Toy, difference, move, wake


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config)


def hooks(model):
    """Number of hooks of every kind, on all modules."""
    return sum(len(value) for module in model.modules() for name, value in vars(module).items() if "hooks" in name)


def test_a_name_that_is_used_again_after_a_merge_trains():
    model, x = Toy(), torch.randn(5, 12)
    first, other = attach(model, LoRA(rank=2), name="a"), attach(model, LoRA(rank=2), name="b")
    wake(first, 1)
    wake(other, 2)
    first.merge()
    first.detach()
    merged = model(x)
    again = attach(model, LoRA(rank=2), name="a")
    torch.testing.assert_close(model(x), merged)
    model(x).square().sum().backward()
    assert all(p.grad is not None for branch in again.branches.values() for p in branch.parameters())
    wake(again, 3)
    assert difference(model(x), merged) > 1e-4
    with again.disabled():
        torch.testing.assert_close(model(x), merged)


def test_a_merge_that_was_overtaken_by_a_lasting_one_is_not_undone():
    """b's copy of the base was taken before a went in for good: putting it back would take a out as well."""
    model, x = Toy(), torch.randn(5, 12)
    a, b = attach(model, LoRA(rank=2), name="a"), attach(model, LoRA(rank=2), name="b")
    wake(a, 1)
    wake(b, 2)
    both = model(x)
    b.merge(reversible=True)
    a.merge()
    a.detach()
    with pytest.raises(RuntimeError, match="no copy of the base is left"):
        b.unmerge()
    assert difference(model(x), both) < 1e-6
    b.detach()
    assert difference(model(x), both) < 1e-6 and type(model.blocks[0]["up"]) is nn.Linear


@pytest.mark.parametrize("config", [LoRA(rank=2), APET(budget=40)], ids=["LoRA", "APET"])
def test_only_refuses_while_another_adapter_is_merged(config):
    model = Toy()
    merged = attach(model, config, name="merged")
    own = attach(model, LoRA(rank=2, targets=r"head"), name="own")
    merged.merge(reversible=True)
    with (
        pytest.raises(RuntimeError, match=r"only: adapter 'merged' is merged into the base weights.*unmerge"),
        own.only(),
    ):
        pass
    with merged.only():  # it is in the weights, and own is switched off
        pass
    merged.unmerge()
    with own.only():
        pass


def test_loading_into_a_merged_adapter_is_refused(tmp_path):
    model = Toy()
    adapter = attach(model, LoRA(rank=2))
    adapter.save(tmp_path)
    adapter.merge(reversible=True)
    with pytest.raises(RuntimeError, match="load: adapter 'default' is merged"):
        adapter.load(tmp_path)
    adapter.unmerge()
    adapter.load(tmp_path)


@pytest.mark.parametrize(
    ("make", "config"),
    [
        (llama, LoRA(rank=2)),
        (llama, SoRA(rank=2)),
        (llama, APET(budget=40)),
        (llama, Bottleneck(width=2)),
        (llama, SoftPrompt(length=2)),
        (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2), LoRA(rank=2)),
    ],
    ids=["LoRA", "SoRA", "APET", "Bottleneck", "SoftPrompt", "encoder"],
)
def test_detach_leaves_no_hook_behind(make, config):
    model = make()
    before = hooks(model)
    adapter = attach(model, config)
    assert hooks(model) > before
    twin = copy.deepcopy(model)
    adapter.detach()
    assert hooks(model) == before
    find_adapters(twin)[0].detach()
    assert hooks(twin) == before


def test_the_fast_path_stays_away_when_one_of_two_adapters_leaves():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model, x = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval(), torch.randn(2, 5, 8)
    first, second = attach(model, LoRA(rank=2), name="first"), attach(model, LoRA(rank=2), name="second")
    wake(second)
    with torch.no_grad():
        expected = model(x)
        first.detach()
        torch.testing.assert_close(model(x), expected)


def test_an_optimizer_that_is_watched_steps_on_after_detach():
    model, x = Toy(), torch.randn(5, 12)
    adapter = attach(model, SoRA(rank=2, look_every=1, patience=1), train=("head",))
    optimizer = torch.optim.SGD(adapter.param_groups(lr=0.1))
    adapter.watch(optimizer)
    adapter.detach()
    model(x).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("config", [SoRA(rank=3), APET(budget=60)], ids=["SoRA", "APET"])
def test_a_second_backward_through_a_checkpointed_graph(config):
    model, x = Toy().double(), torch.randn(4, 12).double()
    adapter = attach(model, config)
    (move if isinstance(config, APET) else wake)(adapter)
    trained = [p for p in model.parameters() if p.requires_grad]
    plain = torch.autograd.grad(model(x).square().sum(), trained)
    loss = checkpoint(model, x, use_reentrant=False, context_fn=adapter.checkpoint_contexts).square().sum()
    with adapter.disabled():
        first = torch.autograd.grad(loss, trained, retain_graph=True)
        second = torch.autograd.grad(loss, trained)
    torch.testing.assert_close(first, plain)
    torch.testing.assert_close(second, plain)


def test_checkpointing_goes_on_when_the_adapter_has_left():
    model, x = Toy(), torch.randn(4, 12)
    adapter = attach(model, LoRA(rank=2))
    adapter.merge()
    adapter.detach()
    checkpoint(model, x, use_reentrant=False, context_fn=adapter.checkpoint_contexts).sum().backward()
    assert model.head.weight.grad is not None


def test_scalars_that_were_merged_for_good_are_the_base_of_another_adapter():
    """Both train all biases: where positions overlap, the other's base values have to take the merged δ in."""
    model, x = Toy(), torch.randn(4, 12)
    a, b = (attach(model, APET(budget=75, targets=".*bias"), name=name) for name in "ab")
    move(a, seed=1)
    with b.disabled():
        only_a = model(x)
    move(b, seed=2)
    both = model(x)
    a.merge()
    a.detach()
    torch.testing.assert_close(model(x), both)
    with b.disabled():
        torch.testing.assert_close(model(x), only_a)
    torch.testing.assert_close(model(x), both)
    b.detach()
    torch.testing.assert_close(model(x), only_a)


def test_a_low_rank_merge_under_scalars_that_stay_is_not_undone():
    model = Toy()
    low_rank = attach(model, LoRA(rank=2), name="low_rank")
    wake(low_rank)
    low_rank.merge(reversible=True)
    sparse = attach(model, APET(budget=75, targets=".*bias|.*up.weight"), name="sparse")
    move(sparse)
    sparse.merge()
    sparse.detach()
    with pytest.raises(RuntimeError, match="no copy of the base is left"):
        low_rank.unmerge()


def test_attaching_and_detaching_inside_a_block_outlasts_it():
    model, x = Toy(), torch.randn(4, 12)
    base = model(x)
    a, b = attach(model, LoRA(rank=2), name="a"), attach(model, LoRA(rank=2), name="b")
    wake(a, 1)
    with a.only():
        b.detach()
    only_a = model(x)
    with a.disabled():
        c = attach(model, LoRA(rank=2), name="c")
        wake(c, 2)
    with a.disabled():
        assert difference(model(x), base) > 1e-5, "c is active after the block in which it was attached"
    with c.disabled():
        torch.testing.assert_close(model(x), only_a)
    again = attach(model, LoRA(rank=2), name="b")
    wake(again, 3)
    assert a.site.active == ("a", "c", "b"), "each adapter once"


def test_a_trained_module_that_carries_another_adapter_is_stored_without_it(tmp_path):
    peft = pytest.importorskip("peft")
    from safetensors.torch import load_file

    model, x = Toy(), torch.randn(4, 12)
    base = copy.deepcopy(model)
    a = attach(model, LoRA(rank=2), name="a", train=("head",))
    b = attach(model, LoRA(rank=2, targets="head"), name="b")
    wake(a, 1)
    wake(b, 2)
    with torch.no_grad():
        model.head.bias.add_(1.0)
    assert a.trainable_parameters() == 4 * 2 * 36 + 39 and b.trainable_parameters() == 2 * 15
    groups = [*a.param_groups(0.1), *b.param_groups(0.1)]
    assert sum(p.numel() for group in groups for p in group["params"]) == 4 * 2 * 36 + 39 + 2 * 15
    torch.optim.SGD(groups)
    a.save(tmp_path / "own")
    a.load(tmp_path / "own")
    a.export_peft(tmp_path / "peft")
    for file in ("own/adapter.safetensors", "peft/adapter_model.safetensors"):
        assert not any("branches" in key for key in load_file(tmp_path / file))
    with b.disabled():
        expected = model(x)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "peft").eval()
    assert difference(loaded(x), expected) < 1e-6
    own = load_adapter(base, tmp_path / "own")
    assert torch.equal(own.model(x), expected)

"""APET: gradients of the trained scalars, exact undoing, ties, company of other adapters and heads, copies."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn

from fulgurite.adapters import APET, LoRA, attach, eligible_scalars, find_adapters
from tests.adapters.toys import Mixed, Toy, bits, difference, move, same_bits, tuned


@pytest.mark.parametrize("share", [0.02, 0.4, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_gradients_of_every_kind_of_tensor_equal_autograds(share, seed):
    """Linear, Conv1D-like, embedding (tied to a head), LayerNorm, bias, convolution, MultiheadAttention, a bare parameter."""
    torch.manual_seed(seed)
    model = Mixed().double()
    base = copy.deepcopy(model)
    adapter = attach(model, APET(budget=max(1, int(share * eligible_scalars(model))), seed=seed))
    move(adapter)
    ids = torch.randint(0, 11, (3, 7))
    twin = tuned(base, adapter)
    twin(ids).square().mean().backward()
    model(ids).square().mean().backward()
    dense = dict(twin.named_parameters())
    if share == 1.0:
        assert set(adapter.deltas) == set(dense)
    for name, index in adapter.positions.items():
        assert adapter.deltas[name].dtype == torch.float64
        expected = dense[name].grad.view(-1)[index]
        assert float((adapter.deltas[name].grad - expected).abs().max()) <= 1e-9, name
    assert any(float(delta.grad.abs().max()) > 1e-6 for delta in adapter.deltas.values())
    assert all(p.grad is None for name, p in model.named_parameters() if "branches." not in name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unselected_scalars_do_not_move_by_a_bit_and_selected_ones_hold_base_plus_delta(dtype):
    torch.manual_seed(0)
    model = Mixed().to(dtype)
    base = bits(model)
    adapter = attach(model, APET(budget=200))
    optimizer = torch.optim.AdamW(adapter.param_groups(lr=1e-2, weight_decay=0.1))
    for step in range(5):
        optimizer.zero_grad()
        model(
            torch.randint(0, 11, (3, 7), generator=torch.Generator().manual_seed(step))
        ).float().square().mean().backward()
        optimizer.step()
    moved = 0
    for name, p in model.named_parameters():
        if "branches." in name:
            continue
        expected = base[name].clone()
        if name in adapter.positions:
            index, delta = adapter.positions[name], adapter.deltas[name].detach()
            assert delta.dtype == torch.float32 and delta.abs().max() > 0
            expected.view(-1)[index] = (expected.view(-1)[index].float() + delta).to(dtype)
            moved += int((expected != base[name]).sum())
        assert torch.equal(p, expected), name
    assert moved > 50


def test_training_equals_dense_training_under_a_mask():
    """A plain dense model whose gradients are masked, trained by the same AdamW, gives the same losses."""
    torch.manual_seed(0)
    model = Mixed()
    adapter = attach(twin_of := copy.deepcopy(model), APET(budget=150))
    masks = {name: torch.zeros(p.numel()) for name, p in model.named_parameters()}
    for name, index in adapter.positions.items():
        masks[name][index] = 1.0
    dense = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    sparse = torch.optim.AdamW(adapter.param_groups(lr=1e-2))
    losses: list[list[float]] = [[], []]
    for step in range(30):
        ids = torch.randint(0, 11, (3, 7), generator=torch.Generator().manual_seed(step))
        for kind, (net, optimizer) in enumerate(((model, dense), (twin_of, sparse))):
            optimizer.zero_grad()
            loss = (net(ids) - 0.5).square().mean()
            loss.backward()
            if net is model:
                for name, p in model.named_parameters():
                    p.grad.mul_(masks[name].view_as(p))
            optimizer.step()
            losses[kind].append(float(loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[1][-1] < 0.9 * losses[1][0]


def test_the_base_comes_back_bit_for_bit_after_1000_cycles_in_bf16():
    torch.manual_seed(0)
    model = Toy().to(torch.bfloat16)
    base, keys = bits(model), list(model.state_dict())
    adapter = attach(model, APET(budget=300))
    g = torch.Generator().manual_seed(0)
    for cycle in range(1000):
        for delta in adapter.deltas.values():
            delta.data.add_(torch.randn(delta.shape, generator=g) * 0.01)
        adapter.sync()
        live = bits(model)
        assert adapter.merge(reversible=True) == 300 * 2
        adapter.unmerge()
        with adapter.disabled():
            assert same_bits(model, base)
        assert same_bits(model, live) and not same_bits(model, base), cycle
    adapter.detach()
    assert same_bits(model, base) and list(model.state_dict()) == keys
    assert type(model.blocks[0]["up"]) is nn.Linear and not find_adapters(model)


def test_merged_weights_stay_and_are_not_trained():
    model, x = Toy(), torch.randn(4, 12)
    adapter = attach(model, APET(budget=80))
    move(adapter)
    out = model(x)
    assert adapter.merge() == 0 and not model(x).requires_grad
    with pytest.raises(RuntimeError, match=r"unmerge\(\) before disabled"), adapter.disabled():
        pass
    with pytest.raises(RuntimeError, match="without reversible=True"):
        adapter.unmerge()
    with pytest.raises(RuntimeError, match="merged already"):
        adapter.merge()
    adapter.detach()
    assert torch.equal(model(x), out)
    adapter = attach(model, APET(budget=80))
    adapter.merge(reversible=True)
    with pytest.raises(RuntimeError, match="merged with a copy"):
        adapter.detach()
    adapter.unmerge()
    adapter.detach()
    with pytest.raises(RuntimeError, match="not attached any more"):
        adapter.site  # noqa: B018


def test_tied_tensors_are_counted_once_and_trained_as_one():
    model = Mixed()
    assert model.out.weight is model.embedding.weight
    adapter = attach(model, APET(budget=11 * 8, targets=r"embedding\.weight"))
    assert eligible_scalars(model, r"out\.weight") == 11 * 8, "either name selects the tensor"
    assert list(adapter.deltas) == ["embedding.weight"] and adapter.trainable_parameters() == 88
    assert [key for key in model.state_dict() if "delta" in key] == ["embedding.branches.default.delta_weight"]
    model(torch.tensor([[1, 2]])).sum().backward()
    gradient = adapter.deltas["embedding.weight"].grad.view(11, 8)
    assert gradient[1].abs().max() > 0 and gradient[9].abs().max() > 0, "row 9 is only used by the head"
    adapter.detach()
    assert type(model.out) is nn.Linear and type(model.embedding) is nn.Embedding


def test_a_low_rank_adapter_beside_it():
    torch.manual_seed(0)
    model, x = Toy(), torch.randn(4, 12)
    base = bits(model)
    sparse = attach(model, APET(budget=400), name="sparse")
    low = attach(model, LoRA(rank=2), name="low")
    move(sparse)
    for branch in low.branches.values():
        nn.init.normal_(branch.lora_b, std=0.1)
    both = model(x)
    both.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in low.branches["blocks.0.up"].parameters())
    assert sparse.deltas["blocks.0.up.weight"].grad.abs().max() > 0
    with sparse.disabled():
        one = model(x)
    with low.disabled():
        other = model(x)
    assert difference(both, one) > 1e-4 and difference(both, other) > 1e-4
    with pytest.raises(RuntimeError, match="trained by an APET adapter"):
        low.merge()
    sparse.detach()
    torch.testing.assert_close(model(x), one)
    low.detach()
    assert same_bits(model, base)


def test_heads_are_trained_beside_it_and_not_eligible():
    model = Toy()
    adapter = attach(model, APET(budget=50, selection="per_module"), train=("head",))
    assert adapter.head_names == ["head"] and not any(name.startswith("head") for name in adapter.deltas)
    assert {group["name"] for group in adapter.param_groups(1e-3)} == {"sparse", "heads", "heads_no_decay"}
    assert adapter.trainable_parameters() == 50 + 12 * 3 + 3
    assert model.head.weight.requires_grad and not model.blocks[0]["up"]._parameters["weight"].requires_grad


def test_copies_are_independent_and_keep_training():
    model, x = Toy(), torch.randn(2, 12)
    adapter = attach(model, APET(budget=80))
    move(adapter)
    before = model(x).detach()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        copied = find_adapters(other)[0]
        optimizer = torch.optim.SGD(copied.param_groups(lr=0.1))
        other(x).sum().backward()
        optimizer.step()
        assert not torch.equal(other(x), before) and torch.equal(model(x), before)
        with copied.disabled():
            reference = other(x)
        with adapter.disabled():
            assert torch.equal(model(x), reference)


def test_a_dropped_model_is_freed():
    model = Toy()
    adapter = attach(model, APET(budget=10))
    gone = weakref.ref(model)
    del model, adapter
    gc.collect()
    assert gone() is None


def test_dtype_and_move_keep_delta_wide_and_the_weights_live():
    model = Toy()
    base = copy.deepcopy(model)
    adapter = attach(model, APET(budget=80))
    move(adapter, 1e-3)
    model.to(torch.bfloat16)
    assert all(delta.dtype == torch.float32 for delta in adapter.deltas.values())
    assert same_bits(model, bits(tuned(base.to(torch.bfloat16), adapter)))
    with adapter.disabled():
        assert same_bits(model, bits(base))
    model.float()
    assert same_bits(model, bits(tuned(base.float(), adapter))), "δ is not lost in the rounding to bf16"


def test_ranks_are_refused_with_one_clear_error():
    adapter = attach(Toy(), APET(budget=10))
    assert adapter.gates == [] and adapter.penalty() == 0.0
    for call in (adapter.prune, adapter.rank_table):
        with pytest.raises(RuntimeError, match="APET has no ranks"):
            call()


def test_idle_scalars_are_named_after_the_first_step(caplog):
    class Sleepy(Toy):
        def __init__(self):
            super().__init__()
            self.pooler = nn.Linear(12, 12)

    model = Sleepy()
    adapter = attach(model, APET(budget=100, selection="per_module"))
    optimizer = torch.optim.SGD(adapter.param_groups(lr=0.1))
    for _ in range(2):
        model(torch.randn(2, 12)).sum().backward()
        optimizer.step()
    messages = [r.message for r in caplog.records if "got no gradient" in r.message]
    assert len(messages) == 1 and "pooler." in messages[0]


def test_a_loss_that_reads_the_tied_heads_weight_without_calling_it():
    """The fused language-modelling loss takes ``lm_head.weight`` itself; δ of the tied tensor gets both uses' gradient."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from fulgurite.kernels import linear_cross_entropy
    from fulgurite.models import find_decoder, output_head

    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, tie_word_embeddings=True))
    adapter = attach(model, APET(budget=2000))
    move(adapter)
    ids = torch.randint(0, 60, (2, 9))
    nn.functional.cross_entropy(model(input_ids=ids).logits[0, :-1], ids[0, 1:]).backward()
    expected = {name: delta.grad.clone() for name, delta in adapter.deltas.items()}
    model.zero_grad()
    head = output_head(model)
    assert head is not None
    hidden = find_decoder(model)(input_ids=ids).last_hidden_state[0, :-1]
    linear_cross_entropy(hidden, head.weight, ids[0, 1:]).backward()
    assert expected["model.embed_tokens.weight"].abs().max() > 1e-4
    for name, delta in adapter.deltas.items():
        torch.testing.assert_close(delta.grad, expected[name], rtol=1e-4, atol=1e-7)

"""Low-rank branches beside the stacked experts of a mixture: what they compute, and what becomes of them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fulgurite.adapters import LoRA, SoRA, attach, find_adapters, load_adapter, within_budget
from fulgurite.adapters.low_rank.retirement import retire
from fulgurite.optim import ProximalAdamW
from tests.adapters.toys import difference, wake

SIZES = dict(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    num_experts_per_tok=2,
    pad_token_id=0,
    initializer_range=0.3,
)
KINDS = {
    "Mixtral": dict(num_local_experts=4),
    "Qwen3Moe": dict(num_experts=4, moe_intermediate_size=12, head_dim=8, decoder_sparse_step=1),
    "Olmoe": dict(num_experts=4),
    "GptOss": dict(num_local_experts=4, head_dim=8),
}
TARGETS = r".*(q_proj|v_proj|experts\.gate_up_proj|experts\.down_proj)"
IDS = torch.randint(1, 40, (2, 7), generator=torch.Generator().manual_seed(5))


def mixture(kind="Mixtral", **more):
    """A random model of this family, all of whose experts' biases are away from zero."""
    import transformers

    if not hasattr(transformers.models.mixtral.modeling_mixtral, "MixtralExperts"):
        pytest.skip("this version of transformers keeps experts as linear layers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **KINDS[kind], **more})
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "bias" in name:
                p.normal_(std=0.3)
    return model


def logits(model):
    return model(input_ids=IDS, use_cache=False).logits


def merged_twin(model, adapter):
    """A copy without the adapter into whose weights W + s·B diag(g) A was written, with gradients to A, g and B of the adapter."""
    twin = copy.deepcopy(model)
    find_adapters(twin)[0].detach()
    weights, sums = dict(twin.named_parameters()), {}
    for name, branch in adapter.branches.items():
        a, gate, b = branch.factors()
        delta = ((b if gate is None else b * gate[..., None, :]) @ a) * branch.scaling
        weight = name if "experts." in name else f"{name}.weight"
        transposed = "experts." in name and "GptOss" in type(model).__name__
        sums[weight] = weights[weight].detach() + (delta.mT if transposed else delta)
    return lambda: torch.func.functional_call(twin, sums, (), {"input_ids": IDS, "use_cache": False}).logits


@pytest.mark.parametrize("method", [LoRA, SoRA])
@pytest.mark.parametrize("kind", list(KINDS))
def test_forward_and_gradients_are_those_of_the_merged_weights(kind, method):
    model = mixture(kind).double()
    model.set_experts_implementation("eager")  # transformers' grouped_mm knows no float64
    adapter = attach(model, method(rank=3, alpha=5, targets=TARGETS))
    wake(adapter)
    for branch in adapter.branches.values():
        branch.double().lora_b.data.mul_(20)
    assert sum("experts." in name for name in adapter.branches) == 4
    reference = merged_twin(model, adapter)
    assert difference(logits(model), logits(copy.deepcopy(model))) == 0
    weights = torch.randn(2, 7, 40, dtype=torch.float64)
    with adapter.disabled():
        assert difference(logits(model), reference()) > 0.01
    found, expected = logits(model), reference()
    assert difference(found, expected) < 1e-12
    own = [p for branch in adapter.branches.values() for p in branch.parameters()]
    ours = torch.autograd.grad((found * weights).sum(), own)
    theirs = torch.autograd.grad((expected * weights).sum(), own)
    norm = torch.cat([g.flatten() for g in theirs]).norm()
    names = [name for name, branch in adapter.branches.items() for _ in branch.parameters()]
    for name, one, other in zip(names, ours, theirs, strict=True):
        assert float((one - other).norm()) < 1e-12 * float(norm), name
    assert all(float(g.abs().max()) > 0 for g in theirs)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("kind", ["Mixtral", "GptOss"])
def test_float32_runs_whatever_way_the_model_computes_its_experts(kind, implementation):
    """Four ranks fill sixteen bytes and go through PyTorch's operator; three are filled up with zeros."""
    model = mixture(kind)
    model.set_experts_implementation(implementation)
    for rank in (3, 4):
        adapter = attach(model, LoRA(rank=rank, targets=TARGETS))
        wake(adapter)
        found = logits(model)
        twin = copy.deepcopy(model)
        find_adapters(twin)[0].merge()
        assert difference(found, logits(twin)) < 1e-5
        assert difference(logits(model.bfloat16()), found) < 0.05
        model.float()
        adapter.detach()


def test_base_comes_back_and_several_adapters_add_up():
    model = mixture()
    base, keys, kinds = logits(model), list(model.state_dict()), [type(m) for m in model.modules()]
    one = attach(model, LoRA(rank=2, targets=TARGETS), name="one")
    two = attach(model, SoRA(rank=3, targets=r".*down_proj"), name="two")
    wake(one, 1), wake(two, 2)
    both = logits(model)
    with one.only():
        first = logits(model)
    with two.disabled():
        assert torch.equal(logits(model), first)
    with one.disabled(), two.disabled():
        assert torch.equal(logits(model), base)
    assert difference(first, base) > 1e-3 and difference(both, first) > 1e-4
    two.merge(reversible=True)
    one.merge(reversible=True)
    assert difference(logits(model), both) < 1e-5
    one.unmerge(), two.unmerge()
    assert torch.equal(logits(model), both)
    one.detach(), two.detach()
    assert torch.equal(logits(model), base)
    assert list(model.state_dict()) == keys and [type(m) for m in model.modules()] == kinds


def test_gates_retire_expert_by_expert_and_training_goes_on():
    model = mixture()
    adapter = attach(model, SoRA(rank=4, targets=TARGETS, patience=1, look_every=1))
    wake(adapter, dead=0)
    optimizer = ProximalAdamW(adapter.param_groups(lr=1e-3))
    twin = copy.deepcopy(model)
    branch = adapter.branches["model.layers.0.mlp.experts.down_proj"]
    with torch.no_grad():
        branch.gate[0, 1] = branch.gate[0, 2] = branch.gate[2, 0] = 0
        branch.gate[3] = 0
    find_adapters(twin)[0].branches["model.layers.0.mlp.experts.down_proj"].gate.data.copy_(branch.gate)
    logits(model).square().sum().backward()
    adapter.prune(optimizer)
    assert branch.lives == [2, 4, 3, 0] and branch.live == 4
    assert difference(logits(model), logits(twin)) < 1e-6
    row = next(row for row in adapter.rank_table() if row.module == "model.layers.0.mlp.experts.down_proj")
    assert (row.rank, row.live, row.nonzero) == (16, 9, 9)
    assert row.parameters_kept == 9 * (24 + 16 + 1) and row.parameters == 16 * 41
    assert adapter.trainable_parameters() == sum(row.parameters_kept for row in adapter.rank_table())
    # Retired ranks are zeros, and no step brings them back.
    hook = adapter.watch(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        logits(model).square().sum().backward()
        optimizer.step()
    hook.remove()
    for expert, live in enumerate(branch.lives):
        assert not branch.gate[expert, live:].any() and not branch.lora_a[expert, live:].any()
    with torch.no_grad():
        branch.gate[1, :2] = 0
    found = logits(model)
    adapter.prune(optimizer)
    assert branch.lora_a.shape == (4, 3, 24) and branch.gate.shape == (4, 3)
    assert difference(logits(model), found) < 1e-6
    logits(model).square().sum().backward()
    optimizer.step()


def test_a_stack_without_a_rank_left_takes_part_in_the_graph():
    """DDP waits for the gradient of every parameter, and its parameters keep their size."""
    model = mixture()
    adapter = attach(model, SoRA(rank=4, targets=TARGETS))
    wake(adapter)
    dead = "model.layers.1.mlp.experts.gate_up_proj"
    with torch.no_grad():
        adapter.branches[dead].gate.zero_()
    before = logits(model)
    assert retire(adapter.branches, None) > 0 and adapter.branches[dead].live == 0
    assert difference(logits(model), before) < 1e-6
    logits(model).sum().backward()
    assert all(p.grad is not None for branch in adapter.branches.values() for p in branch.parameters())
    adapter.prune()
    assert adapter.branches[dead].lora_a.shape == (4, 0, 16) and difference(logits(model), before) < 1e-6


def test_a_saved_adapter_with_retired_ranks_comes_back(tmp_path):
    model, base = mixture(), mixture()
    adapter = attach(model, SoRA(rank=4, targets=TARGETS))
    wake(adapter)
    with torch.no_grad():
        adapter.branches["model.layers.0.mlp.experts.gate_up_proj"].gate[:, 1] = 0
    adapter.prune()
    adapter.save(tmp_path)
    again = load_adapter(base, tmp_path)
    assert torch.equal(logits(base), logits(model))
    assert [b.lives for b in again.branches.values()] == [b.lives for b in adapter.branches.values()]
    state, fresh = model.state_dict(), mixture()
    attach(fresh, SoRA(rank=4, targets=TARGETS))
    fresh.load_state_dict({key: value for key, value in state.items() if key not in adapter.frozen_keys()})
    assert torch.equal(logits(fresh), logits(model))
    assert set(adapter.trained_keys()) <= set(state)
    with pytest.raises(ValueError, match="made for other layers"):
        load_adapter(mixture(num_local_experts=3), tmp_path)


def test_a_merged_state_is_not_loaded_beside_the_branch():
    model, other = mixture(), mixture()
    adapter = attach(model, LoRA(rank=2, targets=r".*experts\.down_proj"))
    attach(other, LoRA(rank=2, targets=r".*experts\.down_proj"))
    wake(adapter)
    adapter.merge()
    with pytest.raises(RuntimeError, match="update would count twice"):
        other.load_state_dict(model.state_dict())


def test_budget_counts_every_expert():
    model = mixture()
    sized = within_budget(model, LoRA(targets=TARGETS), 5000)
    adapter = attach(model, sized)
    assert 2500 < adapter.trainable_parameters() <= 5000
    assert adapter.trainable_parameters() == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_checkpointing_recomputes_dropout_and_branches():
    model = mixture()
    adapter = attach(model, LoRA(rank=4, dropout=0.4, targets=TARGETS))
    wake(adapter)
    model.train()

    def gradients():
        torch.manual_seed(3)
        own = [p for branch in adapter.branches.values() for p in branch.parameters()]
        return torch.autograd.grad(logits(model).square().sum(), own)

    plain = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": adapter.checkpoint_contexts})
    again = gradients()
    assert all(difference(a, b) < 1e-5 for a, b in zip(again, plain, strict=True) if b.abs().max() > 0)


def test_what_cannot_be_adapted_is_refused_by_name():
    class Llama4Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_experts, self.gate_up_proj = 2, nn.Parameter(torch.zeros(2, 4, 4))

    model = nn.ModuleDict(
        {"layers": nn.ModuleList([nn.ModuleDict({"up": nn.Linear(4, 4), "experts": Llama4Experts()})])}
    )
    with pytest.raises(ValueError, match=r"matches layers\.0\.experts\.gate_up_proj, in which Llama4Experts keeps"):
        attach(model, LoRA(rank=2, targets=r".*(up|gate_up_proj)"))
    model = mixture()
    with pytest.raises(
        ValueError, match=r"rank=20 is larger than model\.layers\.0\.mlp\.experts\.gate_up_proj \(16x48\)"
    ):
        attach(model, LoRA(rank=20, targets=r".*gate_up_proj"))
    experts = model.model.layers[1].mlp.experts
    type(experts).forward, kept = (lambda self, x, *_: x), type(experts).forward
    try:
        with pytest.raises(ValueError, match="MixtralExperts computes its experts otherwise than its attributes say"):
            attach(model, LoRA(rank=2, targets=r".*gate_up_proj"))
    finally:
        type(experts).forward = kept
    for module in model.modules():
        assert not hasattr(module, "branches")


def test_all_linear_names_the_expression_that_adapts_the_experts_too(caplog):
    model = mixture()
    attach(model, LoRA(rank=2)).detach()
    (message,) = (record.getMessage() for record in caplog.records if "all-linear" in record.getMessage())
    targets = message.partition("with targets='")[2].partition("'")[0]
    adapter = attach(model, LoRA(rank=2, targets=targets))
    assert len(adapter.branches) == 2 * (4 + 2)

"""attach: what is adapted, what is trained, what is refused, and that taking off leaves nothing behind."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from fulgurite.adapters import APET, Bottleneck, LoRA, SoRA, attach, find_adapters
from tests.adapters.toys import Toy, difference, wake


def test_starts_as_the_base_and_trains_only_the_adapter_and_the_head():
    model, x = Toy(), torch.randn(5, 12)
    base = model(x)
    adapter = attach(model, SoRA(rank=4), train=("head",))
    assert difference(model(x), base) < 1e-6
    assert adapter.layer_names == ["blocks.0.up", "blocks.0.down", "blocks.1.up", "blocks.1.down"]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {
        f"{n}.branches.default.{k}" for n in adapter.layer_names for k in ("lora_a", "lora_b", "gate")
    } | {
        "head.weight",
        "head.bias",
    }
    assert set(Toy().state_dict()) <= set(model.state_dict())
    assert isinstance(model.blocks[0]["up"], nn.Linear)


def test_detach_restores_every_tensor_flag_class_and_key():
    model = Toy()
    model.blocks[1]["up"].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    identities = {n: id(p) for n, p in model.named_parameters()}
    adapter = attach(model, LoRA(rank=2))
    wake(adapter)
    adapter.merge(reversible=True)
    adapter.unmerge()
    adapter.detach()
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    assert {n: id(p) for n, p in model.named_parameters()} == identities
    assert type(model.blocks[0]["up"]) is nn.Linear and not find_adapters(model)
    with pytest.raises(RuntimeError, match="not attached any more"):
        adapter.site  # noqa: B018
    attach(model, LoRA(rank=2))


def test_conv1d_and_regex_targets():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=50, n_positions=32)).eval()
    ids = torch.randint(0, 50, (2, 9))
    base = model(ids).logits
    adapter = attach(model, SoRA(rank=4, targets=r".*\.(c_attn|c_proj)"))
    assert len(adapter.layers) == 6
    assert adapter.rank_table()[0].parameters == 4 * (16 + 48) + 4
    assert difference(model(ids).logits, base) < 1e-6
    wake(adapter)
    out = model(ids).logits
    assert difference(out, base) > 1e-4
    adapter.merge(reversible=True)
    assert difference(model(ids).logits, out) < 1e-6
    adapter.unmerge()
    assert torch.equal(model(ids).logits, out)


def test_a_layer_with_its_own_forward_keeps_it():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(Doubled(6, 6), nn.ReLU(), nn.Linear(6, 2))
    x = torch.randn(3, 6)
    base = model(x)
    adapter = attach(model, LoRA(rank=2, targets="0"))
    assert torch.equal(model(x), base)
    wake(adapter)
    branch = adapter.branches["0"]
    expected = 2 * nn.functional.linear(x, model[0].weight, model[0].bias) + x @ branch.delta().float().t()
    torch.testing.assert_close(model[0](x), expected)


def test_several_by_name_only_and_disabled():
    model, x = Toy(), torch.randn(4, 12)
    base = model(x)
    first = attach(model, SoRA(rank=3), name="first")
    second = attach(model, LoRA(rank=2), name="second")
    wake(first, 1)
    wake(second, 2)
    both = model(x)
    with second.disabled():
        one = model(x)
    with first.only():
        torch.testing.assert_close(model(x), one)
    with first.disabled(), second.disabled():
        torch.testing.assert_close(model(x), base)
    assert difference(both, one) > 1e-5
    merged = {name: p.clone() for name, p in model.state_dict().items() if "branches" not in name}
    first.merge(reversible=True)
    second.merge(reversible=True)
    assert difference(model(x), both) < 1e-6
    with pytest.raises(RuntimeError, match="unmerge that one first"):
        first.unmerge()
    with pytest.raises(RuntimeError, match="unmerge\\(\\) before disabled"), first.disabled():
        pass
    second.unmerge()
    first.unmerge()
    assert all(torch.equal(merged[k], model.state_dict()[k]) for k in merged)
    first.detach()
    with second.only():
        assert difference(model(x), base) > 1e-5
    assert [a.name for a in find_adapters(nn.ModuleList([model]))] == ["second"]


def test_checkpointed_recomputation_uses_the_adapters_of_the_forward():
    from torch.utils.checkpoint import checkpoint

    model, x = Toy(), torch.randn(4, 12)
    adapter = attach(model, SoRA(rank=3))
    wake(adapter)

    def gradients(context_fn):
        model.zero_grad()
        with adapter.disabled():
            reference = model(x).detach()
        out = checkpoint(model, x, use_reentrant=False, **({"context_fn": context_fn} if context_fn else {}))
        with adapter.disabled():  # a backward inside, as a reference pass around a policy's backward may do
            ((out - reference) ** 2).sum().backward()
        return [p.grad for p in model.parameters() if p.requires_grad]

    truth_model = copy.deepcopy(model)
    truth = find_adapters(truth_model)[0]
    with truth.disabled():
        reference = truth_model(x).detach()
    ((truth_model(x) - reference) ** 2).sum().backward()
    expected = [p.grad for p in truth_model.parameters() if p.requires_grad]
    torch.testing.assert_close(gradients(adapter.checkpoint_contexts), expected)


def test_copies_are_independent():
    model, x = Toy(), torch.randn(2, 12)
    adapter = attach(model, SoRA(rank=2))
    wake(adapter)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
        with find_adapters(other)[0].disabled():
            assert not torch.equal(other(x), model(x))


def test_strict_loading_needs_the_adapter_but_not_the_base():
    model = Toy()
    adapter = attach(model, SoRA(rank=2))
    trained = {k: v for k, v in model.state_dict().items() if k not in adapter.frozen_keys()}
    nn.ModuleDict({"inner": model}).load_state_dict({f"inner.{k}": v for k, v in trained.items()}, strict=True)
    trained.pop("blocks.0.up.branches.default.lora_a")
    with pytest.raises(RuntimeError, match=r"Missing key.*blocks\.0\.up\.branches\.default\.lora_a"):
        model.load_state_dict(trained, strict=True)


def test_transformer_encoder_fast_path_is_kept_away():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.randn(2, 5, 8)
    adapter = attach(model, LoRA(rank=2))
    assert all("out_proj" not in name for name in adapter.layers)
    wake(adapter)
    with torch.no_grad():
        fast = model(x)
        with adapter.disabled():
            assert difference(fast, model(x)) > 1e-5
    with pytest.raises(ValueError, match=r"out_proj, but nn\.MultiheadAttention reads its weight"):
        attach(nn.TransformerEncoder(layer, 1), LoRA(rank=2, targets=r".*out_proj"))


def test_a_layer_that_bypasses_its_forward_is_named_at_the_first_forward():
    class Sly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fine, self.sly = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.fine(x) @ self.sly.weight

    model = Sly()
    attach(model, LoRA(rank=2))
    with pytest.raises(RuntimeError, match=r"1 adapted layers were not called.*'sly'"):
        model(torch.randn(2, 4))
    relaxed = Sly()
    attach(relaxed, LoRA(rank=2), check_forward=False)
    relaxed(torch.randn(2, 4))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: attach(Toy(), LoRA(rank=13)), r"rank=13 is larger than blocks\.0\.up \(12x24\)"),
        (lambda: attach(Toy(), LoRA(rank=0)), "rank=0; it must be a whole number >= 1"),
        (lambda: attach(Toy(), SoRA(rank=2, threshold=-1)), "threshold=-1; it must be a number >= 0"),
        (lambda: attach(Toy(), LoRA(dropout=1.0)), "dropout=1.0"),
        (lambda: attach(Toy(), LoRA(targets="up")), r"matches none of the 5 linear layers.*blocks\.0\.up"),
        (lambda: attach(Toy(), LoRA(targets="(")), "valid regular expression"),
        (lambda: attach(Toy(), LoRA(rank=2), train=("haed",)), "Did you mean 'head'"),
        (lambda: attach(nn.ReLU(), LoRA(rank=2)), "no linear layer"),
        (lambda: attach(Toy(), "lora"), "allowed are LoRA, SoRA, APET"),
    ],
)
def test_bad_input_changes_nothing(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_taken_name_is_refused():
    model = Toy()
    attach(model, LoRA(rank=2))
    with pytest.raises(ValueError, match="'default' is attached already"):
        attach(model, LoRA(rank=2))


def test_merge_refuses_tied_weights_and_double_merging():
    model = Toy()
    model.extra = nn.Linear(12, 24)
    model.extra.weight = model.blocks[0]["up"].weight
    adapter = attach(model, LoRA(rank=2))
    with pytest.raises(RuntimeError, match="tied to another module"):
        adapter.merge()
    model = Toy()
    adapter = attach(model, LoRA(rank=2))
    adapter.merge()
    with pytest.raises(RuntimeError, match="merged already"):
        adapter.merge()
    with pytest.raises(RuntimeError, match="without reversible=True"):
        adapter.unmerge()


def mixtral():
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    return MixtralForCausalLM(config)


@pytest.mark.parametrize("config", [LoRA(rank=2), APET(budget=50, targets="all-linear")], ids=["LoRA", "APET"])
def test_all_linear_names_the_weights_that_it_cannot_reach(config, caplog):
    """Fused experts are three-dimensional Parameters of no linear layer; they hold most of a block."""
    model = mixtral()
    blocks = {n: p for n, p in model.named_parameters() if n.startswith("model.layers") and p.dim() >= 2}
    frozen = {n: p for n, p in blocks.items() if "experts" in n and p.dim() == 3}
    if not frozen:
        pytest.skip("this version of transformers keeps experts as linear layers")
    assert set(frozen) < set(blocks)
    attach(model, config, check_forward=False)
    (message,) = (r.getMessage() for r in caplog.records if "all-linear" in r.getMessage())
    unreached = {n: p for n, p in blocks.items() if p.dim() == 3 or "gate.weight" in n}
    share = 100 * sum(p.numel() for p in unreached.values()) / sum(p.numel() for p in blocks.values())
    assert f"{share:.0f} % of the weights in the repeated blocks" in message
    assert f"{len(unreached)} tensors, the largest is model.layers.0.mlp.experts.gate_up_proj" in message


def test_all_linear_says_nothing_where_it_reaches_everything(caplog):
    attach(Toy(), LoRA(rank=2))
    attach(Toy(), SoRA(rank=2, targets=".*up"))
    assert not caplog.records


@pytest.mark.parametrize("where", ["low_rank.attaching.LowRankBranch", "inserted.attaching.BottleneckBranch"])
def test_an_attachment_that_fails_half_way_leaves_the_model_as_it_was(monkeypatch, where):
    model = Toy()
    model.head.weight.requires_grad_(False)
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    config = LoRA(rank=2) if "low_rank" in where else Bottleneck(targets=".*up|.*down")
    made = []

    def full(*args):
        made.append(args)
        if len(made) == 3:
            raise torch.OutOfMemoryError("no memory is left")
        return nn.Module()

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(f"fulgurite.adapters.{where}", full)
        attach(model, config)
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    assert not find_adapters(model) and type(model.blocks[0]["up"]) is nn.Linear
    attach(model, config).detach()
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags


def test_adapters_of_a_module_and_of_a_part_of_it_are_refused():
    """The part's layers listen to one list of active adapters; the other's would never be computed, and be frozen."""
    model = Toy()
    inner = attach(model.blocks, LoRA(rank=2))
    with pytest.raises(
        ValueError, match=r"a part of Toy carries adapters already.*'default'.*attach to the same module"
    ):
        attach(model, LoRA(rank=2), name="outer")
    assert all(p.requires_grad for branch in inner.branches.values() for p in branch.parameters())
    inner.detach()
    attach(model, LoRA(rank=2))
    with pytest.raises(ValueError, match="a part of ModuleList carries adapters already"):
        attach(model.blocks, LoRA(rank=2), name="inner")


@pytest.mark.parametrize("config", [LoRA(rank=2), APET(budget=30, targets="all-linear"), Bottleneck(targets=".*down")])
def test_modules_that_another_adapter_inserted_are_not_adapted(config):
    model = Toy()
    first = attach(model, Bottleneck(width=3, targets=".*down"), name="first")
    second = attach(model, config, train=(".*head",), name="second")
    assert all("branches" not in name for name in second.layer_names)
    assert all(p.requires_grad for branch in first.branches.values() for p in branch.parameters())
    first.detach()
    second.detach()
    with pytest.raises(ValueError, match="matches no module"):
        attach(model, LoRA(rank=2), name="a")
        attach(model, LoRA(rank=2), name="b", train=(r".*branches.*",))


class Branched(nn.Module):
    """A user's own module of the name that adapters use in their layers."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x):
        return self.branches[0](x) + self.branches[1](x)


def test_a_users_own_module_called_branches_is_adapted():
    assert attach(Branched(), LoRA(rank=2)).layer_names == ["branches.0", "branches.1"]
    assert attach(Branched(), APET(budget=40)).trainable_parameters() == 40


class OwnNames(nn.Linear):
    def __init__(self, k: int, n: int) -> None:
        super().__init__(k, n)
        self.tied = True


def test_a_layer_with_attributes_of_the_same_names_is_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 4), OwnNames(4, 4))
    for config in (LoRA(rank=2), APET(budget=40)):
        with pytest.raises(
            ValueError,
            match=r"OwnNames has an attribute 'tied', and an adapted layer needs that name.*leave the layer out",
        ):
            attach(model, config)
        assert model[1].tied is True and type(model[0]) is nn.Linear and not find_adapters(model)
        assert all(p.requires_grad for p in model.parameters())
    attach(model, LoRA(rank=2, targets="0"))


@pytest.mark.parametrize("reversible", [False, True])
def test_a_state_taken_while_merged_is_not_loaded_where_its_update_would_count_twice(
    reversible: bool, tmp_path
) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 12)
    models = [Toy() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    first, second = (attach(model, LoRA(rank=4)) for model in models)
    wake(first)
    expected = models[0](x).detach()
    unmerged = models[0].state_dict()
    first.merge(reversible=reversible)
    torch.save({"state_dict": torch.nn.ModuleDict({"network": models[0]}).state_dict()}, tmp_path / "merged.pt")
    saved = torch.load(tmp_path / "merged.pt", weights_only=True)["state_dict"]
    for outer in (torch.nn.ModuleDict({"network": models[1]}),):
        with pytest.raises(RuntimeError, match=r"saved while adapter 'default' was merged.*count twice.*unmerge\(\)"):
            outer.load_state_dict(saved)
        with pytest.raises(RuntimeError, match="count twice"):
            outer.load_state_dict(saved, strict=False)
    # Merged here as well, it is right; and what was saved before a merge is not loaded into merged weights.
    second.merge()
    torch.nn.ModuleDict({"network": models[1]}).load_state_dict(saved)
    assert torch.allclose(models[1](x), expected, atol=1e-6)
    with pytest.raises(RuntimeError, match=r"is merged into the weights here.*unmerge"):
        models[0].load_state_dict(unmerged)
    with pytest.raises(RuntimeError, match="is merged into the weights here"):
        models[0].load_state_dict({key: value for key, value in unmerged.items() if ".branches." in key})


def test_a_state_without_the_base_does_not_care_about_a_merge() -> None:
    """What AdapterCheckpoint writes: the branches alone, which mean the same merged or not."""
    torch.manual_seed(0)
    models = [Toy() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    first, _ = (attach(model, LoRA(rank=4)) for model in models)
    wake(first)
    expected = models[0](torch.ones(1, 12)).detach()
    first.merge(reversible=True)
    trained = {key: value for key, value in models[0].state_dict().items() if ".branches." in key}
    models[1].load_state_dict(trained)
    assert torch.allclose(models[1](torch.ones(1, 12)), expected, atol=1e-6)
    first.unmerge()
    assert torch.equal(models[0](torch.ones(1, 12)), expected)

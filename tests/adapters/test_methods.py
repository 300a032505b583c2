"""The register of methods: one from outside of the package works everywhere, and the common files know no method by name."""

from __future__ import annotations

import ast
import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import fulgurite.adapters
from fulgurite.adapters import APET, AdapterConfig, LoRA, SoftPrompt, SoRA, attach, load_adapter, within_budget
from fulgurite.adapters.config import config_to_dict
from fulgurite.adapters.inserted.adapter import InsertedAdapter
from fulgurite.adapters.layers.layer import features, put_branch
from fulgurite.adapters.layers.targets import find_targets
from fulgurite.adapters.methods import Method, config_from_dict, largest_size, method_names, register_method
from tests.adapters.toys import Toy, difference


@dataclass(frozen=True)
class Tails(AdapterConfig):
    """A method of somebody else's: an offset for the first ``width`` outputs of each layer."""

    width: int = 2


class Tail(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1, width))


def add(branch, name, layer, args, output):
    if name not in layer.site.active:
        return output
    return torch.cat([output[..., : branch.offset.shape[1]] + branch.offset, output[..., branch.offset.shape[1] :]], -1)


class TailsMethod(Method[Tails]):
    def plan(self, model, config, train, choice):
        layers = find_targets(model, "all-linear", train)

        def put(place):
            adapter = InsertedAdapter(place.model, place.name, config, list(layers), place.heads, place.train)
            for layer in layers.values():
                branch = Tail(config.width)
                put_branch(layer, place.name, branch, place.site)
                adapter.hooks.append(layer.register_forward_hook(partial(add, branch, place.name)))
            return adapter

        return put

    def sized(self, model, config, budget, train):
        layers = find_targets(model, "all-linear", train).values()
        most = min(features(layer)[1] for layer in layers)
        return replace(config, width=largest_size(config, model, budget, each=len(layers), most=most))


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(fulgurite.adapters.methods, "_methods", dict(fulgurite.adapters.methods._methods))
    register_method(Tails, TailsMethod())


def test_a_method_from_outside_is_attached_trained_sized_saved_and_loaded(registered, tmp_path):
    model, x = Toy(), torch.randn(5, 12)
    base = copy.deepcopy(model)
    before = base(x)
    config = within_budget(model, Tails(), 13)
    assert config == Tails(width=3)
    adapter = attach(model, config, train=("head",), name="tails")
    assert torch.equal(model(x), before) and adapter.trainable_parameters() == 12 + 39
    optimizer = torch.optim.SGD(adapter.param_groups(lr=0.1))
    model(x).square().sum().backward()
    optimizer.step()
    after = model(x)
    assert difference(after, before) > 1e-3
    assert adapter.kind == "Tails" and adapter.formats == ("adapter",)
    adapter.save(tmp_path)
    loaded = load_adapter(copy.deepcopy(base), tmp_path)
    assert loaded.config == config and loaded.name == "tails" and torch.equal(loaded.model(x), after)
    trained = {key: value for key, value in model.state_dict().items() if key not in adapter.frozen_keys()}
    other = copy.deepcopy(base)
    attach(other, config, train=("head",), name="tails")
    other.load_state_dict(trained)
    assert torch.equal(other(x), after)
    with adapter.disabled():
        assert difference(model.blocks[0]["up"](x), base.blocks[0]["up"](x)) == 0
    adapter.detach()
    assert type(model.blocks[0]["up"]) is nn.Linear and not model.blocks[0]["up"]._forward_hooks
    assert config_from_dict(config_to_dict(config)) == config


def test_unknown_and_doubled_configurations_are_refused(registered):
    @dataclass(frozen=True)
    class Other(AdapterConfig):
        pass

    with pytest.raises(
        ValueError, match="config is Other; allowed are LoRA, SoRA, APET, BitFit, Bottleneck, SoftPrompt, Tails"
    ):
        attach(Toy(), Other())
    with pytest.raises(ValueError, match=r"class 'somewhere\.Other' is unknown; allowed are LoRA.*imported first"):
        config_from_dict({"class_path": "somewhere.Other"})
    with pytest.raises(ValueError, match=r"SoRA has no size to choose; allowed are APET, BitFit.*SoftPrompt, Tails"):
        within_budget(Toy(), SoRA(), 100)
    twin = dataclass(frozen=True)(type("LoRA", (AdapterConfig,), {}))
    with pytest.raises(ValueError, match="a configuration named LoRA is registered already"):
        register_method(twin, TailsMethod())
    with pytest.raises(
        ValueError,
        match="positions= and scores= were given; they choose the scalars that APET trains, and LoRA chooses no scalars",
    ):
        attach(Toy(), LoRA(rank=2), positions={})


def test_how_an_adapter_can_leave():
    tied = Toy()
    tied.extra = nn.Linear(12, 24)
    tied.extra.weight = tied.blocks[0]["up"].weight
    assert attach(tied, LoRA(rank=2)).formats == ("adapter", "peft"), "its weight is another layer's too"
    assert attach(Toy(), SoRA(rank=2)).formats == ("adapter", "merged", "peft")
    assert attach(Toy(), APET(budget=9, targets="all-linear")).formats == ("adapter", "merged", "peft")
    assert attach(Toy(), APET(budget=9, targets=".*bias")).formats == ("adapter", "merged")


def test_files_common_to_all_methods_name_none_of_them():
    room = Path(fulgurite.adapters.__file__).parent
    names = set(method_names())
    assert {LoRA.__name__, SoftPrompt.__name__} <= names
    for file in sorted(room.glob("*.py")):
        if file.name in ("__init__.py", "config.py"):
            continue
        used = {node.id for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Name)}
        assert not used & names, file.name


@pytest.mark.parametrize(
    "options", [{"alpha": "8"}, {"dropout": "0.1"}, {"alpha": True}, {"threshold": "1"}, {"l1": None}]
)
def test_options_of_the_wrong_type_are_one_sentence(options):
    with pytest.raises(ValueError, match=f"SoRA: {next(iter(options))}=.*; it must be "):
        SoRA(rank=2, **options)

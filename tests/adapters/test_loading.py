"""Adapter folders that are damaged, foreign or hostile: refused by name, in time, and nothing is left attached."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fulgurite.adapters import APET, Bottleneck, LoRA, SoRA, attach, load_adapter
from tests.adapters.toys import Toy, move, wake

METHODS = {
    "LoRA": LoRA(rank=2),
    "SoRA": SoRA(rank=2),
    "APET": APET(budget=40),
    "APET indices": APET(budget=40, storage="indices"),
    "Bottleneck": Bottleneck(width=2, targets=".*down"),
}


def saved(folder, config):
    model = Toy()
    adapter = attach(model, config, train=("head",))
    if isinstance(config, APET):
        move(adapter)
    elif not isinstance(config, Bottleneck):
        wake(adapter)
    adapter.save(folder)


def change(folder, key, value):
    tensors = load_file(folder / "adapter.safetensors")
    assert key in tensors, sorted(tensors)
    tensors[key] = value(tensors[key])
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / "adapter.safetensors")


def describe(folder, **changes):
    path = folder / "adapter.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(folder, words):
    model = Toy()
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=words):
        load_adapter(model, folder)
    assert list(model.state_dict()) == before and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("method", "key", "value", "words"),
    [
        (
            "LoRA",
            "blocks.0.up.lora_a",
            lambda v: v.to(torch.int32),
            r"blocks\.0\.up\.lora_a is torch\.int32; it must be",
        ),
        ("LoRA", "head.weight", lambda v: v.to(torch.int64), r"head\.weight is torch\.int64"),
        ("LoRA", "blocks.1.up.lora_b", lambda v: v.fill_(float("nan")), r"blocks\.1\.up\.lora_b holds NaN or infinity"),
        ("LoRA", "head.bias", lambda v: v.fill_(float("inf")), r"head\.bias holds NaN or infinity"),
        ("SoRA", "blocks.0.up.gate", lambda v: v.bool(), r"blocks\.0\.up\.gate is torch\.bool"),
        ("SoRA", "blocks.0.up._extra_state", lambda v: v.float(), r"_extra_state is torch\.float32; it must be"),
        (
            "SoRA",
            "blocks.0.up._extra_state",
            lambda v: v + 7,
            r"blocks\.0\.up.*the saved counters are of 9 live ranks of 2",
        ),
        ("SoRA", "blocks.0.up.lora_a", lambda v: v[:1].clone(), r"blocks\.0\.up"),
        ("SoRA", "blocks.0.up.lora_a", lambda v: v[:, :5].clone(), r"blocks\.0\.up\.lora_a is \(2, 5\)"),
        ("APET", "head.weight", lambda v: v.t().contiguous(), r"head\.weight is \(12, 3\)"),
        ("APET", "blocks.0.up.weight.delta", lambda v: v.to(torch.int8), r"weight\.delta is torch\.int8"),
        ("APET", "blocks.0.up.weight.delta", lambda v: v * float("nan"), r"weight\.delta holds NaN"),
        ("APET", "blocks.0.up.weight.delta", lambda v: v[:1].clone(), r"weight\.delta is \(1,\)"),
        ("APET indices", "blocks.0.up.weight.index", lambda v: v.float(), r"blocks\.0\.up\.weight.*torch\.float32"),
        (
            "Bottleneck",
            "blocks.0.down.up.weight",
            lambda v: v.to(torch.int8),
            r"blocks\.0\.down\.up\.weight is torch\.int8",
        ),
    ],
)
def test_tensors_that_are_no_adapters_values_are_refused_by_name(tmp_path, method, key, value, words):
    saved(tmp_path, METHODS[method])
    change(tmp_path, key, value)
    refused(tmp_path, words)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_dtypes_are_read(tmp_path, dtype):
    saved(tmp_path, METHODS["LoRA"])
    change(tmp_path, "blocks.0.up.lora_a", lambda v: v.to(dtype))
    load_adapter(Toy(), tmp_path)


def test_a_saved_head_that_would_not_be_loaded_is_named(tmp_path):
    saved(tmp_path, METHODS["LoRA"])
    with pytest.raises(ValueError, match=r"2 tensors that this adapter has no place for, the first is 'head\.bias'"):
        attach(Toy(), LoRA(rank=2)).load(tmp_path)
    saved(tmp_path, METHODS["APET indices"])
    attach(Toy(), APET(budget=40), train=("head",)).load(tmp_path)


@pytest.mark.parametrize("name", ["a.b", "", "keys", "forward"])
def test_names_that_cannot_be_a_key(tmp_path, name):
    with pytest.raises(ValueError, match=rf"attach: name={name!r}; it must be"):
        attach(Toy(), LoRA(rank=2), name=name)
    saved(tmp_path, METHODS["LoRA"])
    describe(tmp_path, name=name)
    refused(tmp_path, "name=")
    assert load_adapter(Toy(), tmp_path, name="mine").name == "mine"


@pytest.mark.parametrize("method", METHODS)
def test_descriptions_of_any_content_are_refused_in_one_sentence(tmp_path, method):
    saved(tmp_path, METHODS[method])
    path = tmp_path / "adapter.json"
    whole = json.loads(path.read_text())
    inner = [("adapter", "class_path"), ("adapter", "init_args")]
    inner += [("adapter", "init_args", key) for key in whole["adapter"]["init_args"]]
    what = next(key for key in ("layers", "tensors", "inserted") if key in whole)
    inner.append((what, next(iter(whole[what]))))
    found = []
    for place in [(key,) for key in whole] + inner:
        for value in (None, 5, -1, 1.5, True, "x", "(", [], [1], {}, {"a": 1}, "absent"):
            text = json.loads(json.dumps(whole))
            target = text
            for key in place[:-1]:
                target = target[key]
            if value == "absent":
                del target[place[-1]]
            else:
                target[place[-1]] = value
            path.write_text(json.dumps(text))
            model = Toy()
            try:
                load_adapter(model, tmp_path)
            except ValueError as error:
                assert "\n" not in str(error)
                if any("branches" in key for key in model.state_dict()):
                    found.append((place, value, "left attached"))
            except Exception as error:
                found.append((place, value, repr(error)))
    assert not found
    path.write_text("[" * 100_000)
    refused(tmp_path, "is not a Fulgurite adapter's description")


@pytest.mark.parametrize("part", ["targets", "train"])
@pytest.mark.parametrize("method", ["LoRA", "APET", "Bottleneck"])
def test_an_expression_that_goes_back_and_forth_for_ever_is_refused_in_time(tmp_path, monkeypatch, method, part):
    monkeypatch.setattr("fulgurite.adapters.patterns._SECONDS", 0.1)
    saved(tmp_path, METHODS[method])
    endless = r"(?:.|..|...)*[A-Z]"
    if part == "train":
        describe(tmp_path, train=[endless])
    else:
        config = json.loads((tmp_path / "adapter.json").read_text())["adapter"]
        config["init_args"]["targets"] = endless
        describe(tmp_path, adapter=config)

    class Long(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.a_module_whose_name_is_rather_long_for_a_module = nn.ModuleList([nn.Linear(3, 3)])

    with pytest.raises(ValueError, match="takes too long to match 'a_module_whose"):
        load_adapter(Long(), tmp_path)

"""What an addition costs: a plug-in package outside of the checkout adds one part of each kind, and its places are counted.

A place is a file of the plug-in (a room counts once) or a line that registers the part. The counts must be those of the table in
docs/contributing/adding.md.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch

from fulgurite import cli
from fulgurite.adapters import methods
from fulgurite.data import ConversationReader
from fulgurite.kernels import backend
from fulgurite.losses import Completions, PreferenceLoss, terms

PAGE = Path(__file__).resolve().parent.parent / "docs" / "contributing" / "adding.md"
PLUGIN = "house_guest"
# Part -> its files inside the plug-in and the lines that register it.
FILES: dict[str, dict[str, str]] = {
    "dataset": {
        "dataset.py": '''
            """Tea chats: instructions and answers in Alpaca's columns."""

            from fulgurite.datamodules import ConversationDataModule


            class TeaDataModule(ConversationDataModule):
                """Tea chats; rows are in Alpaca's columns."""

                hub_path = "example/tea"
                builtin_schema = "alpaca"
            '''
    },
    "module": {
        "module.py": '''
            """Next-token training that logs how many targets a batch has."""

            from typing import Any

            from fulgurite.adapters import AdapterConfig
            from fulgurite.lightning_modules import FinetuneModule
            from fulgurite.lightning_modules.checks.hyperparameters import remember


            class CountingModule(FinetuneModule):
                """Next-token training that logs how many targets a batch has.

                Args:
                    backbone: hub id, folder, or a playground name.
                    adapter: what is trained; None trains the whole network.
                    learning_rate: peak learning rate.
                """

                def __init__(
                    self, backbone: str, adapter: AdapterConfig | None = None, learning_rate: float = 2e-4
                ) -> None:
                    arguments = dict(locals())
                    super().__init__(
                        task="causal_lm", backbone=backbone, adapter=adapter, learning_rate=learning_rate
                    )
                    remember(self, arguments, CountingModule)

                def training_step(self, batch: Any, batch_idx: int) -> Any:
                    self.log("targets", float((batch["labels"] != -100).sum()))
                    return super().training_step(batch, batch_idx)
            '''
    },
    "schema": {
        "schema.py": '''
            """Rows of tea tastings: leaf, water and verdict."""

            from collections.abc import Iterator

            from fulgurite.data import Conversation, Turn
            from fulgurite.data.readers.base import Schema


            def tasting(row: dict, source: str, number: int) -> Iterator[Conversation]:
                """A question about leaf and water, answered by the verdict."""
                question = Turn("user", f"{row['leaf']} at {row['water']} degrees?")
                yield Conversation((question, Turn("assistant", row["verdict"])), source, number)


            TASTING = Schema(("leaf", "water", "verdict"), (), tasting)
            '''
    },
    "adapter": {
        "adapter.py": '''
            """Offsets: y + b behind every linear layer, b trained and zero at first."""

            from dataclasses import dataclass
            from functools import partial
            from typing import Any

            import torch
            from torch import nn

            from fulgurite.adapters import AdapterConfig
            from fulgurite.adapters.inserted.adapter import InsertedAdapter
            from fulgurite.adapters.layers.layer import features, put_branch
            from fulgurite.adapters.layers.targets import find_targets
            from fulgurite.adapters.methods import Method


            @dataclass(frozen=True)
            class Offsets(AdapterConfig):
                """An offset for the outputs of each layer.

                Args:
                    targets: "all-linear", or a regex of whole module names.
                """

                targets: str = "all-linear"


            class Offset(nn.Module):
                """b, (N,)."""

                def __init__(self, width: int) -> None:
                    super().__init__()
                    self.values = nn.Parameter(torch.zeros(width))


            def add(branch: Offset, name: str, layer: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
                """y + b while the adapter is active."""
                return output + branch.values if name in layer.site.active else output


            class OffsetsMethod(Method[Offsets]):
                """How offsets are put into a model."""

                def plan(self, model: nn.Module, config: Offsets, train: tuple[str, ...], choice: Any) -> Any:
                    layers = find_targets(model, config.targets, train)

                    def put(place: Any) -> InsertedAdapter:
                        names, given = list(layers), (place.heads, place.train)
                        adapter = InsertedAdapter(place.model, place.name, config, names, *given)
                        for layer in layers.values():
                            branch = Offset(features(layer)[1])
                            put_branch(layer, place.name, branch, place.site)
                            hook = layer.register_forward_hook(partial(add, branch, place.name))
                            adapter.hooks.append(hook)
                        return adapter

                    return put
            '''
    },
    "loss": {
        "loss.py": '''
            """squared: (1 − Δ)², a least-squares preference loss."""

            import torch

            from fulgurite.losses.terms import Pairs


            def squared(pairs: Pairs) -> torch.Tensor:
                """(1 − Δ)² of each pair, (P,)."""
                return (1 - pairs.delta()) ** 2
            '''
    },
    "kernel": {
        "kernel/__init__.py": '''
            """scaled_relu: y = factor · max(x, 0)."""

            import torch

            from fulgurite.kernels.backend import resolve


            def reference(x: torch.Tensor, factor: float) -> torch.Tensor:
                """The twin in plain PyTorch."""
                return factor * x.clamp(min=0)


            def scaled_relu(x: torch.Tensor, factor: float) -> torch.Tensor:
                """y = factor · max(x, 0), of any shape."""
                triton = resolve("scaled_relu", x)
                return reference(x, factor) if triton is None else triton(x, factor)
            ''',
        "kernel/triton_kernel.py": '''
            """scaled_relu in Triton."""

            import torch
            import triton
            import triton.language as tl


            @triton.jit
            def scaled_relu_kernel(x_ptr, y_ptr, factor, n, BLOCK: tl.constexpr):
                place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
                x = tl.load(x_ptr + place, mask=place < n)
                tl.store(y_ptr + place, tl.maximum(x, 0) * factor, mask=place < n)


            def refusal(*tensors: torch.Tensor) -> str | None:
                return None if tensors[0].is_contiguous() else "x is not contiguous"


            def scaled_relu(x: torch.Tensor, factor: float) -> torch.Tensor:
                y = torch.empty_like(x)
                scaled_relu_kernel[(triton.cdiv(x.numel(), 64),)](x, y, factor, x.numel(), BLOCK=64)
                return y
            ''',
    },
    "verb": {
        "verb.py": '''
            """`fulgurite greet`: says hello."""


            def greet(name: str, loud: bool = False) -> None:
                """Says hello.

                Args:
                    name: whom to greet
                    loud: in capitals
                """
                text = f"hello {name}"
                print(text.upper() if loud else text)
            '''
    },
}
REGISTRATIONS: dict[str, list[str]] = {
    "adapter": ["register_method(Offsets, OffsetsMethod())"],
    "schema": ['ConversationReader.register("tasting", TASTING)'],
    "kernel": [f'register_triton("scaled_relu", "{PLUGIN}.kernel.triton_kernel")'],
    "loss": ['register_loss("squared", Term(squared, takes_margin=True))'],
    "verb": [f'VERBS["greet"] = Verb("say hello", "{PLUGIN}.verb:greet")'],
}
IMPORTS = f"""from fulgurite.adapters.methods import register_method
from fulgurite.cli import VERBS, Verb
from fulgurite.data import ConversationReader
from fulgurite.kernels.backend import register_triton
from fulgurite.losses.terms import Term, register_loss
from {PLUGIN}.adapter import Offsets, OffsetsMethod
from {PLUGIN}.loss import squared
from {PLUGIN}.schema import TASTING

"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The plug-in package, importable and imported; what it registers is forgotten afterwards."""
    for part in FILES.values():
        for name, text in part.items():
            path = tmp_path / PLUGIN / name
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = text.strip("\n").split("\n")
            path.write_text("\n".join(line.removeprefix(" " * 12) for line in lines).rstrip() + "\n")
    lines = [line for part in REGISTRATIONS.values() for line in part]
    (tmp_path / PLUGIN / "__init__.py").write_text(IMPORTS + "\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cli, "VERBS", dict(cli.VERBS))
    monkeypatch.setattr(methods, "_methods", dict(methods._methods))
    before, schemas = dict(terms.TERMS), dict(ConversationReader.table)
    monkeypatch.setattr(backend, "_triton_modules", dict(backend._triton_modules))
    importlib.invalidate_caches()
    yield importlib.import_module(PLUGIN)
    for name in terms.TERMS.keys() - before:
        del terms.TERMS[name]
    ConversationReader.table.clear()
    ConversationReader.table.update(schemas)
    for name in [name for name in sys.modules if name.split(".")[0] == PLUGIN]:
        del sys.modules[name]


def test_a_dataset_and_a_module_train_from_the_command_line(plugin, tmp_path, capsys):
    rows = [{"instruction": f"Which tea is number {i}?", "output": f"Tea number {i} is green."} for i in range(8)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = f"fit --model {PLUGIN}.module.CountingModule --model.backbone playground --model.adapter LoRA"
    words += f" --data {PLUGIN}.dataset.TeaDataModule --data.path {tmp_path / 'train.jsonl'} --data.val_fraction 0"
    words += f" --data.max_length 128 --trainer.max_steps 1 --trainer.default_root_dir {tmp_path / 'run'}"
    words += " --trainer.accelerator cpu --trainer.logger false --trainer.enable_progress_bar false"
    assert cli.main(words.split()) == 0, capsys.readouterr()
    printed = capsys.readouterr().out
    assert all(f"«Tea number {i} is green.<|end|>»" in printed for i in range(8)), (
        "all rows are read, answers supervised"
    )
    module = importlib.import_module(f"{PLUGIN}.module").CountingModule
    again = module.load_from_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert again.hparams["_class_path"] == f"{PLUGIN}.module.CountingModule"


def test_a_schema_is_found_by_its_columns_and_trains_with_a_foreign_adapter(plugin, tmp_path, capsys, monkeypatch):
    # Not read from stderr: whether Lightning's log goes there depends on what was imported first under pytest.
    reports: list[str] = []
    monkeypatch.setattr("fulgurite.datamodules.base.rank_zero_info", reports.append)
    rows = [{"leaf": "Sencha", "water": 60 + i, "verdict": f"Verdict {i}."} for i in range(4)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = "fit --model SFTModule --model.backbone playground --data SFTDataModule --data.val_fraction 0"
    words += f" --model.adapter {PLUGIN}.adapter.Offsets --data.path {tmp_path / 'train.jsonl'}"
    words += f" --data.max_length 128 --trainer.max_steps 2 --trainer.default_root_dir {tmp_path / 'run'}"
    words += " --trainer.accelerator cpu --trainer.logger false --trainer.enable_progress_bar false"
    assert cli.main(words.split()) == 0, capsys.readouterr()
    assert "read as tasting" in "".join(reports) and "«Verdict 3.<|end|>»" in capsys.readouterr().out
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    offsets = [value for key, value in saved.items() if key.endswith("branches.default.values")]
    assert len(offsets) == 28 and all(float(value.abs().max()) > 0 for value in offsets)
    with pytest.raises(ValueError, match="is the name of another schema"):
        ConversationReader.register("alpaca", ConversationReader.table["tasting"])


def test_a_kernel_is_chosen_by_the_one_switch(plugin, monkeypatch):
    pytest.importorskip("triton", reason="pip install triton")
    from fulgurite.kernels import use_backend

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    room = importlib.import_module(f"{PLUGIN}.kernel")
    x = torch.linspace(-2, 2, 70)
    with use_backend("torch"):
        plain = room.scaled_relu(x, 3.0)
    with use_backend("triton"):
        assert torch.equal(room.scaled_relu(x, 3.0), plain)
        with pytest.raises(RuntimeError, match="scaled_relu: backend 'triton' was asked for, but x is not contiguous"):
            room.scaled_relu(x[::2], 3.0)
    assert f"{PLUGIN}.kernel.triton_kernel" in sys.modules


def test_a_loss_is_known_by_its_name_alone_and_in_a_sum(plugin):
    completions = Completions(torch.tensor([-3.0, -5.0]), torch.tensor([2, 2]), torch.tensor([-4.0, -4.0]))
    pairs, lead = torch.tensor([[0, 1]]), 0.5 * 2.0  # β · (ρ of the first less ρ of the second)
    loss = PreferenceLoss("squared", beta=0.5)
    assert loss(completions, pairs=pairs).losses.item() == pytest.approx((1 - lead) ** 2)
    assert loss(completions, pairs=pairs, margin=torch.tensor([0.25])).losses.item() == pytest.approx(0.25**2)
    both = PreferenceLoss(["dpo", "squared"], weights=[1, 2], beta=0.25)(completions, pairs=pairs).losses.item()
    assert both == pytest.approx(math.log(1 + math.exp(-0.5)) + 2 * 0.25)
    with pytest.raises(ValueError, match="is the name of another loss"):
        terms.register_loss("dpo", terms.TERMS["squared"])


def test_a_verb_has_its_help_and_its_parser(plugin, capsys):
    assert cli.main(["--help"]) == 0 and "greet" in capsys.readouterr().out
    assert cli.main(["greet", "--name", "Ada", "--loud"]) == 0
    assert capsys.readouterr().out == "HELLO ADA\n"
    assert cli.main(["greet", "--nam", "Ada"]) == 2
    assert "Did you mean" in capsys.readouterr().err


def test_the_page_states_the_places_that_an_addition_touches():
    counted = {
        part: (len({name.split("/")[0] for name in names}), len(REGISTRATIONS.get(part, [])))
        for part, names in FILES.items()
    }
    rows = re.findall(r"^\| an? (\w+) \| (\d+) \| (\d+) \|", PAGE.read_text(encoding="utf-8"), re.M)
    assert {part: (int(files), int(lines)) for part, files, lines in rows} == counted


def test_the_plug_in_uses_public_names_only():
    text = IMPORTS + "".join(text for part in FILES.values() for text in part.values())
    imported = re.findall(r"from (fulgurite[\w.]*) import ([\w, ]+)", text)
    assert imported and not [
        names for pair in imported for names in re.split(r"[., ]+", " ".join(pair)) if names.startswith("_")
    ]

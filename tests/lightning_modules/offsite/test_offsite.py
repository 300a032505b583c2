"""Offsite tuning: what is trained, what a checkpoint holds, and the way back into the full model, for eight families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from fulgurite.adapters import APET, BitFit, Bottleneck, LoRA, SoftPrompt, SoRA
from fulgurite.lightning_modules import OffsiteTuningModule
from fulgurite.models.emulator.folder import emulator_of, write_emulator
from fulgurite.models.emulator.manifest import Manifest
from fulgurite.models.emulator.plugging import attach_tuned, check_base, names_in_full_model, put_layers
from tests.models.emulator.families import FAMILIES, family
from tests.models.tiny import VOCABULARY

KEPT, TRAINED = [0, 2, 4, 5], [0, 4, 5]


def emulator(folder: Path, name: str = "llama", sharing: str = "choose", kept=KEPT, trained=TRAINED) -> str:
    folder.mkdir()
    full = family(name)
    write_emulator(full, emulator_of(full, "full", kept, trained, sharing, "crash").manifest, folder)
    return str(folder)


def rows() -> DataLoader:
    ids = torch.randint(1, VOCABULARY, (4, 9), generator=torch.Generator().manual_seed(0))
    return DataLoader([{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in ids], 2)


def module(folder: str, **options: Any) -> OffsiteTuningModule:
    return OffsiteTuningModule(
        folder, **{"learning_rate": 1e-2, "lr_schedule": "constant", "warmup_ratio": 0.0, **options}
    )


def fitted(make_trainer, tmp_path: Path, folder: str, **options: Any) -> tuple[OffsiteTuningModule, dict[str, Any]]:
    made = module(folder, **options)
    make_trainer(max_epochs=1).fit(made, rows())
    return made, torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)


def plugged(full: Any, checkpoint: dict[str, Any]) -> Any:
    """The steps of `fulgurite plug-in` for whole layers."""
    manifest = Manifest.from_dict(checkpoint["emulator"], "checkpoint")
    check_base(full, manifest, "full")
    state = {key.removeprefix("network."): value for key, value in checkpoint["state_dict"].items()}
    put_layers(full, names_in_full_model(state, manifest), manifest)
    return full


def trained_by(model: Any, prefix: str) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad and name.startswith(prefix)}


@pytest.mark.parametrize("name", FAMILIES)
def test_fit_and_plug_in(make_trainer, tmp_path: Path, name: str) -> None:
    sharing = "repeat-all" if name in ("llama", "opt", "bloom") else "choose"
    made, checkpoint = fitted(make_trainer, tmp_path, emulator(tmp_path / "emulator", name, sharing))
    places = {0: 0, 4: 4, 5: 5} if sharing == "repeat-all" else {0: 0, 2: 4, 3: 5}
    before, manifest = dict(family(name).named_parameters()), made.manifest
    assert manifest is not None and manifest.trained_places == places
    start = f"network.{manifest.layers_name}."
    assert {key.removeprefix(start).split(".")[0] for key in checkpoint["state_dict"]} == {str(p) for p in places}
    after = dict(plugged(family(name), checkpoint).named_parameters())
    for key, value in after.items():
        inside = key.startswith(f"{manifest.layers_name}.")
        number, _, rest = key.removeprefix(f"{manifest.layers_name}.").partition(".")
        if inside and int(number) in TRAINED:
            place = next(p for p, n in places.items() if n == int(number))
            assert torch.equal(value, made.network.get_parameter(f"{manifest.layers_name}.{place}.{rest}"))
            if not rest.endswith("k_proj.bias"):  # attention does not depend on it: its gradient is rounding
                assert not torch.equal(value, before[key]), key
        else:
            assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("sharing", ["choose", "repeat-non-trainable"])
def test_untrained_layers_give_the_full_model_bit_for_bit(tmp_path: Path, sharing: str) -> None:
    made = module(emulator(tmp_path / "emulator", sharing=sharing))
    made.configure_model()
    checkpoint: dict[str, Any] = {"state_dict": made.state_dict()}
    made.on_save_checkpoint(checkpoint)
    full: Any = family("llama")
    before = {key: value.clone() for key, value in full.state_dict().items()}
    after = plugged(full, checkpoint).state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    "adapter",
    [
        LoRA(rank=2),
        SoRA(rank=2),
        APET(budget=40),
        APET(budget=40, targets="all-linear"),
        LoRA(targets=".*q_proj"),
    ],
    ids=str,
)
def test_adapters_stay_inside_of_the_chosen_layers_and_find_their_way_back(
    make_trainer, tmp_path: Path, adapter
) -> None:
    name = "qwen2"
    made, checkpoint = fitted(make_trainer, tmp_path, emulator(tmp_path / "emulator", name), adapter=adapter)
    inside = trained_by(made.network, "model.layers.")
    assert {key.split(".")[2] for key in inside} <= {"0", "2", "3"} and inside == trained_by(made.network, "")
    assert checkpoint["state_dict"] and all(".branches." in key for key in checkpoint["state_dict"])
    manifest = Manifest.from_dict(checkpoint["emulator"], "checkpoint")
    full: Any = family(name)
    before = {key: value.clone() for key, value in full.state_dict().items()}
    state = {key.removeprefix("network."): value for key, value in checkpoint["state_dict"].items()}
    back = attach_tuned(full, adapter, names_in_full_model(state, manifest), "model.layers", TRAINED)
    with torch.no_grad():
        back.merge()
        made.adapter.merge()
    for place, number in manifest.trained_places.items():
        for key, value in made.network.model.layers[place].named_parameters():
            if ".branches." not in key:
                assert torch.equal(value, full.get_parameter(f"model.layers.{number}.{key}"))
    changed = {key for key, value in before.items() if not torch.equal(value, full.state_dict()[key])}
    assert changed and {key.split(".")[2] for key in changed} <= {"0", "4", "5"}


@pytest.mark.parametrize("adapter", [Bottleneck(), SoftPrompt(), BitFit()], ids=str)
def test_adapters_that_cannot_leave_as_weights_are_refused(tmp_path: Path, adapter) -> None:
    with pytest.raises(ValueError, match="cannot be put into some layers and leave them as weights; allowed are LoRA"):
        module(emulator(tmp_path / "emulator"), adapter=adapter).configure_model()


def test_a_checkpoint_goes_on_with_what_was_trained(make_trainer, tmp_path: Path) -> None:
    folder = emulator(tmp_path / "emulator", sharing="repeat-all")
    made, checkpoint = fitted(make_trainer, tmp_path, folder)
    again = OffsiteTuningModule.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt", map_location="cpu")
    mine, theirs = made.network.state_dict(), again.network.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert again.hparams["backbone"] == folder
    del checkpoint["state_dict"][next(iter(checkpoint["state_dict"]))]
    with pytest.raises(ValueError, match="1 tensors are missing"):
        module(folder).on_load_checkpoint(checkpoint)


@pytest.mark.parametrize("adapter", [None, SoRA(rank=2)], ids=["whole", "SoRA"])
def test_a_run_that_goes_on_from_a_checkpoint_equals_a_straight_one(make_trainer, tmp_path: Path, adapter) -> None:
    folder = emulator(tmp_path / "emulator", sharing="repeat-all")

    def run(epochs: int, checkpoint: Path | None = None) -> OffsiteTuningModule:
        torch.manual_seed(3)
        made = module(folder, adapter=adapter)
        make_trainer(max_epochs=epochs).fit(made, rows(), ckpt_path=checkpoint, weights_only=True)
        return made

    straight = run(2).network.state_dict()
    run(1)
    again = run(2, tmp_path / "checkpoints" / "last.ckpt").network.state_dict()
    assert straight.keys() == again.keys() and all(torch.equal(straight[key], again[key]) for key in straight)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"kept": [0, 3, 5], "trained": [0, 5]}, "with other layers"), ({"name": "mistral"}, "of another base")],
)
def test_a_checkpoint_of_another_emulator_is_refused(
    make_trainer, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    _, checkpoint = fitted(make_trainer, tmp_path, emulator(tmp_path / "emulator"))
    with pytest.raises(ValueError, match=f"was trained on an emulator {words}"):
        module(emulator(tmp_path / "other", **options)).on_load_checkpoint(checkpoint)


def test_a_folder_that_is_no_emulator_is_refused() -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no emulator.json"):
        OffsiteTuningModule("playground").configure_model()


def test_weights_and_gradients_are_those_of_the_kept_layers(tmp_path: Path) -> None:
    made = module(emulator(tmp_path / "emulator", sharing="repeat-non-trainable"))
    made.configure_model()
    batch = next(iter(rows()))
    made.objective(made.network, batch).loss_sum.backward()
    full: Any = family("llama")
    layer = sum(p.numel() for p in full.model.layers[0].parameters())
    rest = sum(p.numel() for p in full.parameters()) - 6 * layer
    held = {p.data_ptr(): p.numel() for p in made.network.parameters()}
    assert sum(held.values()) == rest + len(KEPT) * layer
    gradients = [p.grad.numel() for p in made.network.parameters() if p.grad is not None]
    assert sum(gradients) == len(TRAINED) * layer and len(made.network.model.layers) == 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {k: v * float("nan") for k, v in s.items()}, "holds NaN or infinity"),
        (lambda s: {k: v[:1] for k, v in s.items()}, "has the shape"),
        (lambda s: dict(list(s.items())[1:]), "is missing in the checkpoint"),
        (lambda s: s | {"model.layers.0.more": torch.ones(1)}, "is unknown to the full model"),
        (lambda s: {"model.norm.weight": torch.ones(1)}, "holds no tensor of a trained layer"),
        (lambda s: s | {"model.layers.1.q.branches.default.a": torch.ones(1)}, "lies outside of the trained layers"),
    ],
)
def test_damaged_layers_are_refused_and_change_nothing(tmp_path: Path, change, words: str) -> None:
    made = module(emulator(tmp_path / "emulator"))
    made.configure_model()
    checkpoint: dict[str, Any] = {"state_dict": made.state_dict()}
    made.on_save_checkpoint(checkpoint)
    state = change({key.removeprefix("network."): value + 1 for key, value in checkpoint["state_dict"].items()})
    full: Any = family("llama")
    before = {key: value.clone() for key, value in full.state_dict().items()}
    assert made.manifest is not None
    with pytest.raises(ValueError, match=words):
        put_layers(full, names_in_full_model(state, made.manifest), made.manifest)
    assert all(torch.equal(before[key], value) for key, value in full.state_dict().items())


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("mistral", "is a MistralForCausalLM"),
        (2, "differs in layer 2;"),
        (3, "differs in a layer that was not kept;"),
        ("embed", "differs in the embeddings or the head;"),
    ],
)
def test_another_base_is_refused_by_its_hash(tmp_path: Path, other, words: str) -> None:
    made = module(emulator(tmp_path / "emulator"))
    made.configure_model()
    full: Any = family(other if other == "mistral" else "llama")
    with torch.no_grad():
        if isinstance(other, int):
            full.model.layers[other].mlp.up_proj.weight[0, 0] += 1e-6
        elif other == "embed":
            full.model.embed_tokens.weight[0, 0] += 1e-6
    assert made.manifest is not None
    with pytest.raises(ValueError, match=words):
        check_base(full, made.manifest, "it")

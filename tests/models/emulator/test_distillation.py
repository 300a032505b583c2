"""The distance of an emulator's frozen layers to those of the full model that they stand for, against transformers' own states."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fulgurite.models.emulator.distillation import Run, Runs, frozen_runs, with_own_layers
from fulgurite.models.emulator.folder import Emulator, emulator_of
from fulgurite.models.emulator.layers import find_layers
from fulgurite.models.emulator.stacking import restack
from tests.models.emulator.families import FAMILIES, family
from tests.models.tiny import VOCABULARY

BATCH = {
    "input_ids": torch.arange(3, 21).reshape(2, 9) % VOCABULARY,
    "attention_mask": torch.tensor([[1] * 9, [1] * 6 + [0] * 3]),
}


def made(full: Any, kept: list[int], trained: list[int], sharing: str = "choose") -> Emulator:
    return emulator_of(full, "full", kept, trained, sharing, "crash")


def states(model: Any) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return model(**BATCH, use_cache=False, output_hidden_states=True).hidden_states


@pytest.mark.parametrize(
    ("kept", "trained", "sharing", "runs"),
    [
        ([0, 2, 4, 5], [0, 5], "choose", [Run(range(1, 3), range(1, 5))]),
        ([0, 1, 2, 4, 5], [0, 2, 5], "choose", [Run(range(1, 2), range(1, 2)), Run(range(3, 4), range(3, 5))]),
        ([0, 2, 5], [0, 2, 5], "choose", []),
        ([0, 2, 5], [0, 5], "repeat-all", [Run(range(1, 5), range(1, 5))]),
        ([0, 2, 3, 5], [2, 3], "choose", [Run(range(1), range(2)), Run(range(3, 4), range(4, 6))]),
    ],
)
def test_runs_lie_between_trained_layers(kept: list[int], trained: list[int], sharing: str, runs: list[Run]) -> None:
    assert frozen_runs(made(family("llama"), kept, trained, sharing).manifest) == runs


@pytest.mark.parametrize("name", FAMILIES)
def test_the_distance_is_that_of_transformers_own_states(name: str) -> None:
    full = family(name)
    emulator = made(full, [0, 2, 4, 5], [0, 5])
    # The first layer is the same in both, so that the full model's own states are what its run makes of the emulator's.
    theirs, mine = states(full)[5], states(emulator.model)[3]
    tokens = BATCH["attention_mask"].bool()
    expected = (theirs - mine)[tokens].square().mean() / theirs[tokens].square().mean()
    assert expected > 1e-4
    torch.testing.assert_close(Runs(*emulator[:1], full, emulator.manifest).distance(BATCH), expected)


def test_the_full_model_is_at_no_distance_from_itself() -> None:
    full = family("gemma2")
    emulator = made(full, [0, 1, 2, 3, 4, 5], [0, 3, 5])
    assert Runs(emulator.model, full, emulator.manifest).distance(BATCH) == 0


def test_a_later_run_starts_from_the_emulators_states_and_moves_no_earlier_layer() -> None:
    full: Any = family("llama")

    def gradient(trained: list[int]) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        manifest = made(full, [0, 2, 3, 5], trained).manifest
        own: Any = with_own_layers(full, [2, 5])
        student = restack(own, manifest.sources, list(manifest.trained_places))
        weights = [own.model.layers[number].mlp.up_proj.weight.requires_grad_(True) for number in (2, 5)]
        distance = Runs(student, full, manifest).distance(BATCH)
        distance.backward()
        return weights[0].grad, weights[1].grad, distance.detach()

    first, none, alone = gradient([0, 3, 5])
    both, second, together = gradient([0, 3])
    assert none is None and second is not None and bool(second.any())
    torch.testing.assert_close(both, first / 2)
    # The last run: the full model's layers 4 and 5 on the emulator's states behind its layer 3.
    student: Any = made(full, [0, 2, 3, 5], [0, 3]).model
    start = states(student)[3]
    found: list[torch.Tensor] = []
    hooks = [
        full.model.layers[4].register_forward_pre_hook(lambda module, args: (start, *args[1:])),
        full.model.layers[5].register_forward_hook(lambda module, args, output: found.append(output)),
        student.model.layers[3].register_forward_hook(lambda module, args, output: found.append(output)),
    ]
    states(full)
    states(student)
    for hook in hooks:
        hook.remove()
    wanted, mine = found
    tokens = BATCH["attention_mask"].bool()
    apart = (wanted - mine)[tokens].square().mean() / wanted[tokens].square().mean()
    torch.testing.assert_close(2 * together - alone, apart)


def test_only_the_layers_named_are_copied() -> None:
    full = family("opt")
    own = with_own_layers(full, [2])
    name = find_layers(full).name
    for (key, mine), (_, theirs) in zip(own.named_parameters(), full.named_parameters(), strict=True):
        assert (mine is not theirs) == key.startswith(f"{name}.2.") and torch.equal(mine, theirs)

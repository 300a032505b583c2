"""Distillation of an emulator's frozen layers, before it is given away (Offsite-Tuning, arXiv 2302.04870).

Between two trained layers of the emulator lies a run of frozen ones. It stands for the run of the full model between the same two
layers, and is trained to compute what that one computes from the same input. With h_S the states behind the emulator's run and h_T
those that the full model's run makes of the states in front of it,

    distance = mean(((h_T − h_S) / rms(h_T))²),  rms(h) = √mean(h²),

over the tokens of a batch, padding left out, and averaged over the runs. Offsite-Tuning has one such run, between the trained
layers at both ends. No gradient goes from one run into another.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from fulgurite.models.emulator.layers import find_layers
from fulgurite.models.emulator.manifest import Manifest
from fulgurite.models.heads import find_decoder

__all__ = ["Run", "Runs", "frozen_runs", "with_own_layers"]


class Run(NamedTuple):
    """Frozen layers between two trained ones.

    Attributes:
        places: theirs in the emulator, neighbours.
        numbers: of the full model's layers that they stand for, neighbours.
    """

    places: range
    numbers: range


def frozen_runs(manifest: Manifest) -> list[Run]:
    """The runs of frozen layers of an emulator, in order.

    Args:
        manifest: of the emulator.
    """
    trained = sorted(manifest.trained_places.items())
    borders = [(-1, -1), *trained, (len(manifest.sources), manifest.layers)]
    found = [Run(range(p + 1, q), range(m + 1, n)) for (p, m), (q, n) in itertools.pairwise(borders)]
    return [run for run in found if run.places]


def with_own_layers(model: nn.Module, numbers: Iterable[int]) -> nn.Module:
    """The same model with copies of some layers; all other Parameters are the model's own.

    Args:
        model: a causal language model of transformers; it stays as it is.
        numbers: of the layers to copy.
    """
    layers = find_layers(model).modules
    copied = {id(p) for number in numbers for p in layers[number].parameters()}
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors if id(tensor) not in copied})


class Runs:
    """How far an emulator's frozen runs are from those of the full model.

    Args:
        student: the emulator.
        full: the full model.
        manifest: of the emulator.
    """

    def __init__(self, student: nn.Module, full: nn.Module, manifest: Manifest) -> None:
        self._student, self._full, self._runs = student, full, frozen_runs(manifest)
        name = manifest.layers_name
        self._layers: Any = student.get_submodule(name), full.get_submodule(name)

    def distance(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The mean distance of the runs, a number; its gradient reaches the emulator alone.

        Args:
            batch: input_ids and attention_mask, (B, T).
        """
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        starts: dict[int, torch.Tensor] = {}
        found = self._pass(self._student, self._layers[0], [run.places for run in self._runs], inputs, starts)
        with torch.no_grad():
            wanted = self._pass(self._full, self._layers[1], [run.numbers for run in self._runs], inputs, starts)
        tokens = batch["attention_mask"].bool()
        apart = []
        for mine, theirs in zip(found, wanted, strict=True):
            h_s, h_t = mine[tokens].float(), theirs[tokens].float()
            apart.append((h_t - h_s).square().mean() / h_t.square().mean())
        return torch.stack(apart).mean()

    def _pass(
        self,
        model: nn.Module,
        layers: nn.ModuleList,
        runs: list[range],
        inputs: Mapping[str, torch.Tensor],
        starts: dict[int, torch.Tensor],
    ) -> list[torch.Tensor]:
        """The states behind each run; in front of it stand those of ``starts``, or are put there where they are missing."""
        ends: dict[int, torch.Tensor] = {}
        hooks: list[Any] = []
        for number, run in enumerate(runs):
            before, behind = _begins(starts, number), _ends(ends, number)
            hooks.append(layers[run[0]].register_forward_pre_hook(before, with_kwargs=True))
            hooks.append(layers[run[-1]].register_forward_hook(behind))
        try:
            find_decoder(model)(**inputs, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return [ends[number] for number in range(len(runs))]


def _begins(starts: dict[int, torch.Tensor], number: int) -> Any:
    def begin(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        states = args[0] if args else kwargs["hidden_states"]
        start = starts.setdefault(number, states.detach())
        return ((start, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": start})

    return begin


def _ends(ends: dict[int, torch.Tensor], number: int) -> Any:
    def end(module: nn.Module, args: Any, output: Any) -> None:
        ends[number] = output[0] if isinstance(output, tuple) else output

    return end

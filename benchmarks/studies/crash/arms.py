"""What the study trains and scores: the arms, each with the figures of one line of its file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.studies.crash.names import FULL, METHODS, ZERO
from benchmarks.studies.crash.scoring import likelihoods
from fulgurite.commands.emulate.choosing import choose_layers
from fulgurite.commands.emulate.measuring import measure
from fulgurite.commands.emulate.picture import draw
from fulgurite.commands.emulate.support import read_support
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone
from fulgurite.datamodules import ChoiceTasksDataModule
from fulgurite.evaluation.tasks import find_tasks
from fulgurite.evaluation.tasks.rows import items_of
from fulgurite.lightning_modules import OffsiteTuningModule, SFTModule
from fulgurite.models import load_backbone
from fulgurite.models.emulator.folder import Emulator, emulator_of, write_emulator
from fulgurite.models.emulator.manifest import Manifest
from fulgurite.models.emulator.plugging import check_base, names_in_full_model, put_layers
from fulgurite.models.emulator.sharing import SHARING
from fulgurite.models.emulator.similarity import cka_matrix
from fulgurite.whole_files import whole_folder

__all__ = ["TASKS", "Arm", "Bench", "Settings", "arms_of"]

# Rows to train on and to compare layers by; rows to score on.
TASKS = {
    "arc_easy": ("arc/ARC-Easy-Train.jsonl", "arc/ARC-Easy-Test.jsonl"),
    "openbookqa": ("openbookqa/train.head-1000.jsonl", "openbookqa/dev.jsonl"),
    "arc_challenge": ("arc/ARC-Challenge-Train.jsonl", "arc/ARC-Challenge-Dev.jsonl"),
}
_AT_ONCE = 32  # rows that are scored together


@dataclass(frozen=True)
class Settings:
    """What all arms have in common.

    Attributes:
        model: hub id or folder of the full model, or playground.
        train: layers that are trained.
        steps: of training.
        batch: rows of a step.
        rate: learning rate, the same for every arm.
        rows: that are scored, the first of the file.
        support: rows by which layers are compared, the first of the training file.
        max_length: tokens of a training row at most.
    """

    model: str
    train: int = 4
    steps: int = 40
    batch: int = 8
    rate: float = 1e-4
    rows: int = 150
    support: int = 128
    max_length: int = 96


@dataclass(frozen=True)
class Arm:
    """One line of the file.

    Attributes:
        task: of :data:`TASKS`.
        kind: "zero-shot", "full fine-tuning", "before" (the emulator as it was made) or "tuned" (emulator and plug-in).
        seed: of the rows' order; 0 where nothing is trained.
        keep: layers that stay; 0 without an emulator.
        method: "crash" or "uniform"; "" without an emulator.
        sharing: "choose", "repeat-all" or "repeat-non-trainable"; "" without an emulator.
    """

    task: str
    kind: str
    seed: int = 0
    keep: int = 0
    method: str = ""
    sharing: str = ""


def arms_of(tasks: Sequence[str], keeps: Sequence[int], seeds: Sequence[int]) -> Iterator[Arm]:
    """All arms, seed after seed, one kind of sharing on all tasks before the next; full fine-tuning, the longest, comes last.

    Args:
        tasks: of :data:`TASKS`.
        keeps: numbers of layers that stay.
        seeds: the seeds.
    """
    yield from (Arm(task, ZERO) for task in tasks)
    for seed, sharing, task, keep, method in itertools.product(seeds, SHARING, tasks, keeps, METHODS):
        yield Arm(task, "before", 0, keep, method, sharing)
        yield Arm(task, "tuned", seed, keep, method, sharing)
    yield from (Arm(task, FULL, seed) for seed in seeds for task in tasks)


class Bench:
    """The full model and the rows, held in bfloat16 while arms are run.

    Args:
        settings: of all arms.
        data: the folder with the files of :data:`TASKS`.
        out: where emulators, models and pictures go.
    """

    def __init__(self, settings: Settings, data: Path, out: Path) -> None:
        self.settings, self.data, self.out = settings, data, out
        self.base = resolve_backbone(settings.model)
        loaded: Any = load_backbone(self.base, "causal_lm", dtype="bfloat16").model
        self.full: Any = loaded.eval().requires_grad_(False)
        self.tokenizer = load_tokenizer(self.base)
        self._similarity: dict[str, torch.Tensor] = {}

    def run(self, arm: Arm, keep_models: bool = False) -> dict[str, Any]:
        """The figures of an arm.

        Args:
            arm: which one.
            keep_models: write the weights that were found into out/models.
        """
        if arm.kind == ZERO:
            self._keep(self.full, "base", keep_models)
            return {"model": self._score(self.full, arm.task)}
        if arm.kind == FULL:
            module: Any = SFTModule(str(self.base), **self._options())
            self._fit(module, arm)
            self._keep(module.network, f"{arm.task}-full", keep_models)
            return {"model": self._score(module.network, arm.task)}
        if arm.kind == "before":
            made = self._emulator(arm)
            manifest = made.manifest
            what = {"kept": manifest.kept, "trained": manifest.trained, "bytes": manifest.disclosed_bytes}
            return {"emulator": self._score(made.model, arm.task), **what, "full_bytes": manifest.full_bytes}
        tuned: Any = OffsiteTuningModule(self._folder(arm), **self._options())
        self._fit(tuned, arm)
        found = {"emulator": self._score(tuned.network, arm.task)}
        with self._plugged(tuned):
            name = f"{arm.task}-{arm.keep}-{arm.method}-{arm.sharing}"
            self._keep(self.full, name, keep_models and arm.method == "crash" and arm.sharing == "repeat-all")
            return {**found, "model": self._score(self.full, arm.task)}

    def _options(self) -> dict[str, Any]:
        return {"learning_rate": self.settings.rate, "dtype": "bfloat16"}

    def _fit(self, module: Any, arm: Arm) -> None:
        from lightning.pytorch import Trainer, seed_everything

        settings = self.settings
        seed_everything(arm.seed, verbose=False)
        rows = ChoiceTasksDataModule(
            arm.task,
            str(self.data / TASKS[arm.task][0]),
            val_fraction=0.0,
            tokenizer=str(self.base),
            batch_size=settings.batch,
            max_length=settings.max_length,
            seed=arm.seed,
            cache_dir=str(self.out / "cache"),
        )
        trainer = Trainer(
            accelerator="cpu",
            max_steps=settings.steps,
            gradient_clip_val=1.0,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=self.out,
        )
        trainer.fit(module, rows)

    def _emulator(self, arm: Arm) -> Emulator:
        full, layers = self.full, self.full.config.num_hidden_layers
        neighbours = None
        if arm.method == "crash":
            neighbours = self._cka(arm.task).diagonal(1).tolist()
        placement = "even" if arm.method == "crash" else "ends"
        chosen = choose_layers(layers, arm.keep, self.settings.train, placement, neighbours)
        return emulator_of(full, self.base, chosen.kept, chosen.trained, arm.sharing, arm.method, chosen.clusters)

    def _folder(self, arm: Arm) -> str:
        """The emulator's folder, written once for all seeds."""
        task = arm.task if arm.method == "crash" else "any"
        folder = self.out / "emulators" / f"{task}-{arm.keep}-{arm.method}-{arm.sharing}"
        if not folder.exists():
            manifest = self._emulator(arm).manifest
            with whole_folder(folder) as scratch:
                write_emulator(self.full, manifest, scratch)
                self.tokenizer.save_pretrained(scratch)
            if arm.method == "crash":
                draw(self._cka(arm.task), manifest, self.out / f"cka-{arm.task}-{arm.keep}.png")
        return str(folder)

    def _cka(self, task: str) -> torch.Tensor:
        if task not in self._similarity:
            path = str(self.data / TASKS[task][0])
            rows = read_support("study", self.tokenizer, path, task, limit=self.settings.support)
            self._similarity[task] = cka_matrix(measure(self.full, rows, _AT_ONCE, "weighted").features)
        return self._similarity[task]

    @contextmanager
    def _plugged(self, module: Any) -> Iterator[None]:
        """The tuned layers in the full model, as `fulgurite plug-in` puts them there, and its own ones afterwards."""
        checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
        module.on_save_checkpoint(checkpoint)
        manifest = Manifest.from_dict(checkpoint["emulator"], "study")
        check_base(self.full, manifest, self.settings.model)
        state = {key.removeprefix("network."): value for key, value in checkpoint["state_dict"].items()}
        layers = self.full.get_submodule(manifest.layers_name)
        own = {number: {k: v.clone() for k, v in layers[number].state_dict().items()} for number in manifest.trained}
        put_layers(self.full, names_in_full_model(state, manifest), manifest)
        try:
            yield
        finally:
            for number, weights in own.items():
                layers[number].load_state_dict(weights)

    def _score(self, model: nn.Module, task: str) -> dict[str, Any]:
        """Which rows were answered rightly, and −log p of each right answer."""
        (known,) = find_tasks([task])
        assert known.metrics is not None
        items = items_of(known, str(self.data / TASKS[task][1]), self.settings.rows).items
        right, loss, tokens = [0] * len(items), [0.0] * len(items), 0
        for place, found in enumerate(likelihoods(model, self.tokenizer, items)):
            item = items[place]
            right[place] = int(known.metrics(item, found.sums, None)["acc"])
            answer = item.choices.index(item.right_answer or "")
            loss[place], tokens = round(-found.sums[answer], 2), tokens + found.tokens[answer]
        mean = math.fsum(loss) / tokens
        return {"right": "".join(map(str, right)), "loss": loss, "mean_loss": mean}

    def _keep(self, model: Any, name: str, wanted: bool) -> None:
        if wanted and not (self.out / "models" / name).exists():
            with whole_folder(self.out / "models" / name) as scratch:
                model.save_pretrained(scratch)
                self.tokenizer.save_pretrained(scratch)

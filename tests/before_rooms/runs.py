"""Checkpoints and the config.yaml beside them: loaded, validated and resumed."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import importlib
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.before_rooms.comparing import IDS, MASK, Values, cache_in, chdir, first_logits, number, quiet, rounded


def checkpoint(folder: Path, name: str) -> Values:
    """What `load_from_checkpoint` gives of runs/NAME: class, options that tell the adapter, and outputs for fixed token ids."""
    with chdir(folder):
        path = f"runs/{name}/checkpoints/last.ckpt"
        options = torch.load(path, map_location="cpu", weights_only=True)["hyper_parameters"]
        cls = _class(options["_class_path"])
        module = cls.load_from_checkpoint(path, map_location="cpu").eval()
        found: Values = {"class": cls.__name__, "num_labels": module.num_labels, "label_names": module.label_names}
        if module.chat_template is not None:
            found["chat_template"] = hashlib.sha256(module.chat_template.encode()).hexdigest()[:16]
        if getattr(module, "conditions", None) is not None:
            found["conditions"] = module.conditions.to_dict()
        if getattr(module, "stage_reports", None):
            found["stage_reports"] = [rounded(report) for report in module.stage_reports]
        if cls.__name__ == "UltraFuserModule":
            return {**found, "stage": module.stage, **_fused(path)}
        batch = {"input_ids": torch.tensor(IDS), "attention_mask": torch.tensor(MASK)}
        with torch.no_grad():
            found["logits"] = first_logits(module(batch).logits)
            if module.adapter is not None:
                with module.adapter.disabled():
                    found["logits with the adapter off"] = first_logits(module(batch).logits)
                found["trained"] = module.adapter.trainable_parameters()
                with contextlib.suppress(RuntimeError):
                    found["ranks"] = [[row.module, row.live, row.nonzero] for row in module.adapter.rank_table()]
        return found


def _class(path: str) -> Any:
    """A module's class by its name, wherever its file lies by now."""
    public = importlib.import_module("fulgurite.lightning_modules")
    return getattr(public, path.rpartition(".")[2])


def _fused(path: str) -> Values:
    """Greedy tokens of a fused model with the gate's weights, through the class that wrote the checkpoint."""
    from fulgurite.commands.generate.command import load_model
    from fulgurite.commands.shared.options import ComputeOptions, SourceOptions
    from fulgurite.evaluation import GenerationSettings, generate_fused

    loaded = load_model("generate", SourceOptions(path), ComputeOptions(device="cpu"))
    prompts = ["What is 2 + 3?", "Write a function step(x) that returns x."]
    answers = generate_fused(loaded.model, loaded.tokenizer, prompts, GenerationSettings(max_new_tokens=6))
    return {
        "answers": [answer[0].text for answer in answers],
        "weights": [[round(v, 5) for v in answer[0].weights.mean(0).tolist()] for answer in answers],
    }


def validate(folder: Path, name: str) -> Values:
    """Metrics of `fulgurite validate --config runs/NAME/config.yaml --ckpt_path last`, from the file that it logs to."""
    return _run(folder, name, "validate")


def resume(folder: Path, name: str) -> Values:
    """Training losses of `fulgurite fit --config … --ckpt_path last` after the steps that the checkpoint stands at."""
    with chdir(folder):
        steps = torch.load(f"runs/{name}/checkpoints/last.ckpt", map_location="cpu", weights_only=True)["global_step"]
    more = ["--trainer.max_steps", str(steps + 2)]
    if name == "sora_schedule":  # stages are counted in epochs
        more = ["--trainer.max_epochs", "3"]
    if name.startswith("ultrafuser"):
        more = ["--trainer.max_steps", str(steps + 1)]
    return _run(folder, name, "fit", *more)


def of_the_machine(key: str) -> bool:
    """Whether a metric tells of the machine and not of the run."""
    return key.startswith("peak_memory") or key.endswith("_per_second")


def _run(folder: Path, name: str, verb: str, *more: str) -> Values:
    from fulgurite.cli import main

    place = folder / "runs" / name
    last = place / "checkpoints" / "last.ckpt"
    with chdir(folder), tempfile.TemporaryDirectory() as root, cache_in(root), quiet():
        words = [verb, "--config", f"runs/{name}/config.yaml", "--ckpt_path", f"runs/{name}/checkpoints/last.ckpt"]
        code = main([*words, "--trainer.default_root_dir", root, *more])
        assert code == 0, f"{verb} of {name}: exit code {code}"
        logged = [row for file in sorted(Path(root).glob("**/metrics.csv")) for row in csv.DictReader(file.open())]
    assert last.is_file()
    found: Values = {}
    for row in logged:
        for key, value in row.items():
            if not value or key in ("epoch", "step") or of_the_machine(key):
                continue
            found.setdefault(key, []).append(number(float(value)))
    return found

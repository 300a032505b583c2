"""Study: does training in bfloat16 move the weights and the loss as float32 does? On the playground's base, full tuning, 50 steps.

SFT at 1e-5, DPO at 5e-7 and a reward model at 1e-5, each with dtype=bfloat16, with Lightning's bf16-true, with bf16-mixed and in
float32, over three seeds (of the rows' order, and of the reward head). The base's weights are numbers that bfloat16 holds, as in
most published models. So small a rate moves a bfloat16 weight by a part of the distance to its neighbour only; what adds up is
the optimizer's float32 master, and the weight that the model computes with is the master rounded up from a point of its own
(fulgurite/optim/masters.py). The share of moved weights is that of what the optimizer steps (the master, or the weight itself),
beside it that of the weights that the model computes with. Under bf16-mixed the float32 weights have masters as well: by
themselves they would move, but autocast would round them to the nearest in each forward, so that the model stood still until they
had moved half of that distance (DPO at 5e-7: loss 0.686 instead of 0.656). The loss is that of the last eight steps.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import warnings
from pathlib import Path
from typing import Any

__all__ = ["report", "run"]

FORMS = {"float32": {}, "dtype=bfloat16": {"dtype": "bfloat16"}, "bf16-true": {"precision": "bf16-true"},
         "bf16-mixed": {"precision": "bf16-mixed"}}  # fmt: skip
KINDS = ("SFT at 1e-5", "DPO at 5e-7", "reward head at 1e-5")
SEEDS, STEPS = (0, 1, 2), 50


def run(real_data: Path) -> dict[str, Any]:
    """Every kind in every form and seed; prints a line per run. No real rows are read."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        _publish(scratch)
        for kind in KINDS:
            for form, options in FORMS.items():
                for seed in SEEDS:
                    found = {"kind": kind, "form": form, "seed": seed, **_one(kind, options, seed, scratch)}
                    print(found, flush=True)
                    runs.append(found)
    return {"steps": STEPS, "runs": runs}


def _publish(scratch: str) -> None:
    """The playground's base in bfloat16 and its tokenizer, into ``scratch``/base."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from fulgurite.data.playground.registry import BACKBONES

    source = BACKBONES["playground"]
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(f"{scratch}/base")
    AutoTokenizer.from_pretrained(source).save_pretrained(f"{scratch}/base")


def _one(kind: str, options: dict[str, Any], seed: int, scratch: str) -> dict[str, float]:
    import lightning.pytorch as pl
    import torch

    from fulgurite.datamodules import PreferenceDataModule, SFTDataModule
    from fulgurite.lightning_modules import PreferenceModule, RewardModule, SFTModule

    class Watch(pl.Callback):
        """The weights before the first step, and the loss of each."""

        def __init__(self) -> None:
            self.losses: list[float] = []

        def on_train_start(self, trainer: Any, module: Any) -> None:
            self.before = {name: p.detach().clone() for name, p in module.network.named_parameters()}

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.losses.append(float(trainer.callback_metrics["train_loss"]))

    pl.seed_everything(seed, verbose=False)
    dtype, rows = (
        options.get("dtype", "float32"),
        {"cache_dir": scratch, "batch_size": 4, "max_length": 256, "seed": seed},
    )
    data: Any
    module: Any
    if kind.startswith("SFT"):
        module = SFTModule(f"{scratch}/base", learning_rate=1e-5, dtype=dtype, warmup_ratio=0.0, lr_schedule="constant")
        data = SFTDataModule("builtin", limit_train=400, **rows)
    else:
        data = PreferenceDataModule("builtin", limit_train=400, **rows)
        shared: dict[str, Any] = {"dtype": dtype, "warmup_ratio": 0.0, "lr_schedule": "constant"}
        if kind.startswith("DPO"):
            module = PreferenceModule(f"{scratch}/base", learning_rate=5e-7, **shared)
        else:
            module = RewardModule(f"{scratch}/base", learning_rate=1e-5, **shared)
    watch = Watch()
    trainer = pl.Trainer(
        max_steps=STEPS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=scratch, num_sanity_val_steps=0, limit_val_batches=0, log_every_n_steps=1,
        precision=options.get("precision", "32-true"), callbacks=[watch],
    )  # fmt: skip
    trainer.fit(module, data)
    state = trainer.optimizers[0].state
    stepped = moved = total = 0
    for name, p in module.network.named_parameters():
        if name.startswith("regression_head") or not kind.startswith("reward"):
            master = state[p].get("master", p.detach()) if p in state else p.detach()
            mixed = options.get("precision") == "bf16-mixed"
            used = p.detach().bfloat16() if mixed else p.detach()
            total += p.numel()
            stepped += int((master != watch.before[name]).sum())
            moved += int((used != watch.before[name]).sum())
    assert torch.isfinite(torch.tensor(watch.losses)).all()
    return {
        "stepped": stepped / total,
        "moved": moved / total,
        "first_loss": watch.losses[0],
        "loss": statistics.fmean(watch.losses[-8:]),
    }


def report(figures: dict[str, Any], docs: Path) -> None:
    """docs/half_precision.md with a table."""
    lines = [
        "# Training in bfloat16 against float32",
        "",
        *(__doc__ or "").split("\n\n", 1)[1].strip().splitlines(),
        "",
        f"Machine: {figures['machine']['device']}; torch {figures['machine']['torch']}. Command: "
        "`python -m benchmarks.science half_precision`.",
        "",
        *table(figures["runs"]),
    ]
    (docs / "half_precision.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(runs: list[dict[str, Any]]) -> list[str]:
    """The rows of the table in Markdown: means over the seeds, the losses' spread, and each seed's distance to float32."""
    lines = [
        "| what | form | weights stepped | weights moved | loss, last 8 steps | against float32, per seed |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for kind in dict.fromkeys(run["kind"] for run in runs):
        plain = {run["seed"]: run["loss"] for run in runs if run["kind"] == kind and run["form"] == "float32"}
        for form in dict.fromkeys(run["form"] for run in runs if run["kind"] == kind):
            mine = [run for run in runs if run["kind"] == kind and run["form"] == form]
            stepped, moved, loss = (statistics.fmean(run[key] for run in mine) for key in ("stepped", "moved", "loss"))
            spread = statistics.stdev(run["loss"] for run in mine) if len(mine) > 1 else float("nan")
            apart = ", ".join(f"{run['loss'] - plain[run['seed']]:+.5f}" for run in mine)
            lines.append(
                f"| {kind} | {form} | {100 * stepped:.1f} % | {100 * moved:.1f} % | {loss:.5f} ± {spread:.5f} | {apart} |"
            )
    return lines

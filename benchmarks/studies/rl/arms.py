"""What the playground's study trains: each arm gives a network, and what it did on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.studies.rl.questions import AT_ONCE, Examiner, pairs, write_lines
from fulgurite.adapters import LoRA
from fulgurite.data.encoding.templates import apply_template
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone
from fulgurite.data.records.conversation import Turn
from fulgurite.datamodules import PreferenceDataModule, PromptsDataModule, SFTDataModule
from fulgurite.evaluation.selection.candidates import Candidates
from fulgurite.evaluation.selection.training_rows import training_rows
from fulgurite.lightning_modules import PreferenceModule, RewardModule, RLModule, SFTModule
from fulgurite.lightning_modules.checks.initial_weights import merge_adapter
from fulgurite.lightning_modules.objectives.completions import TokenLogProbs
from fulgurite.lightning_modules.rollouts.figures import kl_per_answer
from fulgurite.lightning_modules.rollouts.packs import Trees
from fulgurite.models import load_backbone
from fulgurite.whole_files import whole_folder

__all__ = ["DPO", "RL", "SFT", "Settings", "divergence", "learn_policy", "learn_reward", "learn_rows", "write_base"]

RL = {"PPO": "gae", "RLOO": "rloo", "GRPO": "group"}
SFT, DPO = "rejection-sampling SFT", "DPO"
Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What all arms have in common.

    Attributes:
        start: adapter that is merged into the playground's base first; "" for none.
        template: that questions are asked in; "" for the base's own.
        tokens: that each method may draw.
        prompts: of a step.
        answers: to each prompt of a step.
        minibatches: optimizer steps of a step.
        longest: tokens of an answer.
        kl_bound: nats per answer above which a run ends.
        rank: of LoRA; alpha is twice it.
        questions: to train on.
        chosen_on: questions that decide between learning rates.
        held_out: questions that the table is about.
        reward_pairs: that the reward model learns from.
        batch: rows of a step of the methods that do not draw while they train.
        epochs: of these.
    """

    start: str = "playground-maths"
    template: str = "wizardmath"
    tokens: int = 160_000
    prompts: int = 32
    answers: int = 8
    minibatches: int = 4
    longest: int = 48
    kl_bound: float = 20.0
    rank: int = 16
    questions: int = 2000
    chosen_on: int = 300
    held_out: int = 600
    reward_pairs: int = 2000
    batch: int = 32
    epochs: int = 2


def write_base(folder: Path, settings: Settings) -> None:
    """Write what every arm begins with, once: the base with the SFT adapter merged in, and a tokenizer with its template.

    Args:
        folder: where to.
        settings: of all arms.
    """
    if folder.exists():
        return
    model: Any = load_backbone(resolve_backbone("playground"), "causal_lm").model
    if settings.start:
        merge_adapter(model, resolve_backbone(settings.start))
    with whole_folder(folder) as scratch:
        model.save_pretrained(scratch)
        apply_template(load_tokenizer("playground"), settings.template or None).save_pretrained(scratch)


def learn_policy(
    base: Path,
    settings: Settings,
    method: str,
    rate: float,
    seed: int,
    questions: str,
    reward: str = "gsm8k",
    beta: float = 0.0,
) -> tuple[Any, Row]:
    """Train with RLModule until the tokens are drawn; the module, and figures of each step.

    Args:
        base: of :func:`write_base`.
        settings: of all arms.
        method: of :data:`RL`.
        rate: learning rate.
        seed: of draws and of the order of the questions.
        questions: file of the questions.
        reward: what rewards; with a reward model the checker judges as well, at a weight that changes nothing.
        beta: weight of KL.
    """
    proxy = reward != "gsm8k"
    module = RLModule(
        str(base), [reward, "gsm8k"] if proxy else "gsm8k", reward_weights=[1.0, 1e-9] if proxy else None,
        advantage=RL[method], adapter=_lora(settings), answers=settings.answers, max_new_tokens=settings.longest,  # type: ignore[arg-type]
        drawn_at_once=AT_ONCE, beta=beta, kl_bound=settings.kl_bound, learning_rate=rate, seed=seed,
        minibatches=settings.minibatches,
    )  # fmt: skip
    data = PromptsDataModule(
        questions, tokenizer=str(base), max_length=128, batch_size=settings.prompts, val_fraction=0.0, seed=seed
    )
    names = {
        "kl": "kl",
        "length": "length",
        "entropy": "entropy",
        "drawing": "draw_seconds",
        "training": "train_seconds",
    }
    names |= {"reward": "reward", **({"true": "reward/gsm8k"} if proxy else {})}
    steps: dict[str, list[float]] = {name: [] for name in names}
    drawn = [0.0]

    def after(trainer: Any) -> None:
        found = trainer.callback_metrics
        for name, key in names.items():
            steps[name].append(round(float(found[f"train_{key}"]), 5))
        drawn[0] += float(found["train_length"]) * settings.prompts * settings.answers
        trainer.should_stop = trainer.should_stop or drawn[0] >= settings.tokens

    _fit(module, data, seed, base.parent, after, max_epochs=-1)
    return module, {"tokens": round(drawn[0]), "steps": steps}


def learn_rows(
    base: Path, settings: Settings, method: str, rate: float, seed: int, drawn: Sequence[Row]
) -> tuple[Any, Row]:
    """Train on rows of answers that the base has drawn: the right ones, or pairs of right and wrong ones.

    Args:
        base: of :func:`write_base`.
        settings: of all arms.
        method: :data:`SFT` or :data:`DPO`.
        rate: learning rate.
        seed: of the rows' order.
        drawn: a line per question: question, texts, right, cut, tokens.
    """
    candidates = [
        Candidates(
            str(place), (Turn("user", row["question"]),), tuple(row["texts"]),
            tuple("length" if cut else "stop" for cut in row["cut"]), correct=[float(right) for right in row["right"]],
        )
        for place, row in enumerate(drawn)
    ]  # fmt: skip
    rows = training_rows(candidates, [list(own.correct) for own in candidates], top=4)
    name = "sft" if method == SFT else "pairs"
    path = write_lines(base.parent / "rows" / f"{name}-{seed}.jsonl", rows.sft if method == SFT else rows.pairs)
    common: Row = {
        "tokenizer": str(base), "max_length": 128, "val_fraction": 0.0, "seed": seed, "cache_dir": str(base.parent / "cache"),
    }  # fmt: skip
    module: Any
    data: Any
    if method == SFT:
        module = SFTModule(str(base), adapter=_lora(settings), learning_rate=rate)
        data = SFTDataModule(path, batch_size=settings.batch, **common)
    else:
        module = PreferenceModule(str(base), adapter=_lora(settings), learning_rate=rate)
        data = PreferenceDataModule(path, batch_size=settings.batch, token_budget=settings.batch * 128, **common)
    _fit(module, data, seed, base.parent, max_epochs=settings.epochs)
    tokens = sum(sum(row["tokens"]) for row in drawn)
    return module, {"tokens": tokens, "rows": len(rows.sft if method == SFT else rows.pairs), "left_out": rows.left_out}


def learn_reward(base: Path, settings: Settings, file: Path) -> float:
    """Train the reward model on made-up pairs of the training split, and write its checkpoint; its accuracy on pairs it never saw.

    Args:
        base: of :func:`write_base`.
        settings: of all arms.
        file: the checkpoint.
    """
    known = pairs(settings.reward_pairs + 400)
    paths = {
        name: write_lines(base.parent / "rows" / f"reward-{name}.jsonl", rows)
        for name, rows in (("train", known[:-400]), ("val", known[-400:]))
    }
    module = RewardModule(str(base), adapter=_lora(settings), learning_rate=1e-3)
    data = PreferenceDataModule(
        paths["train"], val_path=paths["val"], tokenizer=str(base), max_length=128, batch_size=settings.batch,
        token_budget=settings.batch * 128, cache_dir=str(base.parent / "cache"),
    )  # fmt: skip
    trainer = _fit(module, data, 0, base.parent, max_epochs=settings.epochs, check_val_every_n_epoch=settings.epochs)
    accuracy = float(trainer.callback_metrics["val_rewards/accuracies"])
    file.parent.mkdir(parents=True, exist_ok=True)
    trainer.save_checkpoint(file)
    return accuracy


@torch.no_grad()
def divergence(module: Any, examiner: Examiner, rows: Sequence[Row]) -> float:
    """KL of a trained policy to the base, in nats per answer, on answers that it draws at temperature 1: the sum of k3.

    Args:
        module: with a network and an adapter that can be switched off.
        examiner: draws.
        rows: the questions.
    """
    groups = examiner.drawn(module.network, rows, 2, 1.0, 1)
    trees = Trees(groups, examiner.tokenizer.pad_token_id)
    log_probs, total = TokenLogProbs(), 0.0
    for pack in trees.packs(range(len(trees)), 8192):
        batch = module.objective.on_host(trees.batch(pack))
        policy = log_probs(module.network, batch)
        with module.adapter.disabled():
            total += kl_per_answer(policy, log_probs(module.network, batch), 1)
    return total / len(trees.lengths)


def _lora(settings: Settings) -> LoRA:
    return LoRA(rank=settings.rank, alpha=2 * settings.rank)


def _fit(
    module: Any, data: Any, seed: int, folder: Path, after: Callable[[Any], None] | None = None, **options: Any
) -> Any:
    from lightning.pytorch import Callback, Trainer, seed_everything

    class After(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if after is not None:
                after(trainer)

    seed_everything(seed, verbose=False)
    clip = {} if isinstance(module, RLModule) else {"gradient_clip_val": 1.0}  # RLModule clips by itself
    validates = {} if "check_val_every_n_epoch" in options else {"limit_val_batches": 0}
    trainer = Trainer(
        accelerator="cpu", num_sanity_val_steps=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=[After()], **clip, **validates, **options,
    )  # fmt: skip
    trainer.fit(module, data)
    return trainer

"""Study: GRPO with LoRA on a real model and GSM8K's training questions, with the checker as reward, for some minutes on a CPU.

    python -m benchmarks.studies.rl.gsm8k --model FOLDER --out runs/rl-gsm8k [--minutes 14] [--json FILE]

The likeliest answers to held-out questions (the first of GSM8K's test file, which is for evaluation alone) are judged before and
after. Trained on are questions of the training file whose solution has few steps: a small model is right too seldom on the others,
and a question that it never answers rightly teaches nothing. What is held out is not chosen so.

Steps and verdicts are lines of OUT/lines.jsonl, and the policy is saved after each step: the same command goes on where it was
stopped.
Rows are read from FULGURITE_REAL_DATA, or ../shared/data beside the checkout.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.science import machine, real_data
from benchmarks.studies.rl.questions import Examiner, write_lines
from fulgurite.adapters import LoRA
from fulgurite.callbacks import AdapterCheckpoint, RandomState
from fulgurite.datamodules import PromptsDataModule
from fulgurite.evaluation.runner.record_file import RecordFile
from fulgurite.evaluation.selection.intervals import Bootstrap
from fulgurite.lightning_modules import RLModule
from fulgurite.models import load_backbone
from fulgurite.whole_files import write_text

__all__ = ["Settings", "main", "report"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """Of the run.

    Attributes:
        model: folder or hub id.
        dtype: of the base.
        minutes: of training.
        prompts: of a step.
        answers: to each.
        longest: tokens of an answer.
        temperature: of the draws.
        rate: learning rate.
        rank: of LoRA; alpha is twice it.
        solution: steps of the solution of a training question at most.
        held_out: questions that are judged before and after.
        seed: of the draws and of the questions' order.
    """

    model: str
    dtype: str = "bfloat16"
    minutes: float = 14.0
    prompts: int = 8
    answers: int = 8
    longest: int = 128
    temperature: float = 0.8
    rate: float = 2e-4
    rank: int = 16
    solution: int = 2
    held_out: int = 200
    seed: int = 0


def _rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _train(settings: Settings, out: Path, questions: str, file: RecordFile, known: list[Row]) -> Any:
    """Go on training until the minutes are over; the module."""
    from lightning.pytorch import Callback, Trainer, seed_everything
    from lightning.pytorch.callbacks import ModelCheckpoint

    module = RLModule(
        settings.model, "gsm8k", dtype=settings.dtype, adapter=LoRA(rank=settings.rank, alpha=2 * settings.rank),
        advantage="group", loss_mean="answer", answers=settings.answers, max_new_tokens=settings.longest,
        temperature=settings.temperature, drawn_at_once=settings.prompts * settings.answers, learning_rate=settings.rate,
        token_budget=2048, seed=settings.seed,
    )  # fmt: skip
    data = PromptsDataModule(
        questions,
        tokenizer=settings.model,
        batch_size=settings.prompts,
        val_fraction=0.0,
        max_length=160,
        seed=settings.seed,
    )
    left = 60 * settings.minutes - sum(line["seconds"] for line in known)

    class Lines(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            self.begun = time.perf_counter()

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            nonlocal left
            seconds = time.perf_counter() - self.begun
            names = (
                "reward",
                "kl",
                "length",
                "truncated",
                "zero_variance",
                "entropy",
                "mismatch_max",
                "draw_seconds",
                "train_seconds",
            )
            line = {name: round(float(trainer.callback_metrics[f"train_{name}"]), 5) for name in names}
            line = {"phase": "step", "number": trainer.global_step, **line, "seconds": round(seconds, 2)}
            left -= seconds
            trainer.should_stop = left <= 0
            # A step that was noted and not saved is taken again, to the same figures.
            if line["number"] not in {step["number"] for step in known}:
                known.append(line)
                file.add(line)
                print(*(f"{name} {value}" for name, value in line.items() if name != "phase"), flush=True)

    seed_everything(settings.seed, verbose=False)
    saved = out / "checkpoints" / "last.ckpt"
    each = ModelCheckpoint(saved.parent, filename="policy", save_last=True, every_n_train_steps=1)
    # Where the minutes are over the fit below only takes the saved policy up.
    most = len(known) if left <= 0 and saved.is_file() else -1
    trainer = Trainer(
        accelerator="cpu", max_epochs=-1, max_steps=most, limit_val_batches=0, num_sanity_val_steps=0, logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=out,
        callbacks=[Lines(), AdapterCheckpoint(), RandomState(), each],
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=str(saved) if saved.is_file() else None, weights_only=True)
    return module


def report(lines: Sequence[Row]) -> list[str]:
    """What came out, in sentences and as a table.

    Args:
        lines: of the study's file.
    """
    import numpy as np

    said = []
    rights = {line["phase"]: np.array([float(letter) for letter in line["right"]]) for line in lines if "right" in line}
    estimates = Bootstrap(len(next(iter(rights.values()))), 0) if rights else None
    for phase, values in rights.items():
        assert estimates is not None
        said.append(
            f"held-out questions right {phase}: {_percent(estimates.estimate(values, share=True))} of {len(values)}"
        )
    if estimates is not None and len(rights) == 2:
        said.append(f"after − before: {_percent(estimates.estimate(rights['after'] - rights['before']))}")
    steps = [line for line in lines if line["phase"] == "step"]
    width = max(1, len(steps) // 4)
    if steps:
        said += [
            "",
            "| steps | reward | KL, nats per answer | tokens | cut | groups alike | drawing, training s |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
    for start in range(0, len(steps), width):
        part = steps[start : start + width]
        mean = {
            name: sum(line[name] for line in part) / len(part) for name in part[0] if name not in ("phase", "number")
        }
        said.append(
            f"| {part[0]['number']} – {part[-1]['number']} | {mean['reward']:.3f} | {mean['kl']:.3f} | {mean['length']:.0f} | "
            f"{mean['truncated']:.0%} | {mean['zero_variance']:.0%} | {mean['draw_seconds']:.0f}, {mean['train_seconds']:.0f} |"
        )
    return said


def _percent(estimate: Any) -> str:
    if estimate.low is None:
        return f"{100 * estimate.value:.1f} % (all alike)"
    return f"{100 * estimate.value:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def main(arguments: list[str] | None = None) -> None:
    """Judges, trains, judges again; prints the table.

    Args:
        arguments: words of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.rl.gsm8k", description=(__doc__ or "")[:127])
    parser.add_argument("--model", required=True, help="folder or hub id of an instructed causal model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows_in", type=Path, help="folder of GSM8K; default: math/gsm8k in the real rows")
    parser.add_argument("--json", type=Path)
    defaults = asdict(Settings(""))
    for name, value in list(defaults.items())[1:]:
        parser.add_argument(f"--{name}", type=type(value), default=value)
    options = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    settings = Settings(**{name: getattr(options, name) for name in defaults})
    folder = options.rows_in or real_data() / "math" / "gsm8k"
    train = [row for row in _rows(folder / "train.head-2000.jsonl") if row["answer"].count("\n") <= settings.solution]
    held = _rows(folder / "test.jsonl")[: settings.held_out]
    questions = write_lines(options.out / "questions.jsonl", train)
    identity = {name: value for name, value in asdict(settings).items() if name != "minutes"}
    with RecordFile(options.out / "lines.jsonl", "lines", identity, ("phase", "number")) as file:
        lines = list(file.records)
        base: Any = load_backbone(settings.model, "causal_lm", dtype=settings.dtype).model.eval()
        data = PromptsDataModule(questions, tokenizer=settings.model)
        examiner = Examiner(data.load_tokenizer(), settings.longest, at_once=64)

        def judge(phase: str, network: Any) -> None:
            begun = time.perf_counter()
            groups = examiner.drawn(network, held, 1, 0.0, 0)
            answers = [group.answers[0] for group in groups]
            line = {"phase": phase, "number": 0, "right": "".join(str(int(answer.reward)) for answer in answers)}
            line |= {"cut": sum(answer.cut for answer in answers), "shown": answers[0].text}
            line |= {"seconds": round(time.perf_counter() - begun, 1)}
            lines.append(line)
            file.add(line)
            print(phase, f"{line['right'].count('1')} of {len(held)} right,", line["seconds"], "s", flush=True)

        if not any(line["phase"] == "before" for line in lines):
            judge("before", base)
        del base
        if not any(line["phase"] == "after" for line in lines):
            steps = [line for line in lines if line["phase"] == "step"]
            module = _train(settings, options.out, questions, file, steps)
            lines += [line for line in steps if line not in lines]
            judge("after", module.network.eval())
    print(f"{len(train)} training questions", *report(lines), sep="\n")
    if options.json:
        figures = {"study": "rl_gsm8k", "machine": machine(), "settings": asdict(settings), "lines": lines}
        write_text(options.json, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

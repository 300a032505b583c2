"""Study: CPO on three objectives whose levels are checked, against CPSFT, DPO and SFT at equal steps, on the playground.

The rows hold four answers to each question, which differ in helpfulness (1 to 5), honesty (1 to 5) and harmlessness (0 or 1), all
three rated by checkers that never run code; long answers tend to be dishonest ones. Every model is trained on the playground's tiny
base for the same number of steps. As published, the supervised stage trains the whole network and the preference stage LoRA: CPO is
CPSFT followed by CDPO, DPO is SFT followed by DPO (pairs ordered by the mean rating, no tokens), CPSFT and SFT go on alone.

Asked are held-out questions, one objective at a time and two at once, at every level; answers are the likeliest tokens. ρ is
Spearman's over single answers. What a free objective loses is against the same model asked without a condition. A point of a front
is the mean of two objectives under one condition; it counts as covered if one of CPO's lies no more than 2 % of a scale below it.
Steps and β were chosen for CPO on other questions (validation, seed 0): with 200 steps in the second stage a free objective fell by
up to 4.5 % of its scale there, with 400 by 2 %. The playground was made easy for a tiny model (an answer's words stand in
alphabetical order, numbered downwards; its certainty is one of five phrases): ρ says that levels reach the answers, not how well
a large model would be steered.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

__all__ = ["report", "run"]

FIRST_STEPS, SECOND_STEPS = 700, 400
# With β 0.1 the answers' own likelihood falls so far that phrases break ("Iing am sure") after 60 steps at 5e-4.
RANK, FIRST_RATE, SECOND_RATE, BETA = 16, 3e-3, 3e-4, 0.5
QUESTIONS = 40
TOLERANCE = 0.02
TARGETS = {"alone": 0.9, "two at once": 0.8, "fall": 0.05}
_PACK = 256


def run(real_data: Path) -> dict[str, Any]:
    """Trains and asks every model; prints a line per run. No real rows are read."""
    from fulgurite.evaluation.controllability import covers, hypervolume

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    models: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        total = FIRST_STEPS + SECOND_STEPS
        begun = {name: _train(folder, name, "cpsft", control, FIRST_STEPS) for name, control in _CONTROLS.items()}
        for name, start, stage, control, steps in (
            ("CPO", "cpsft", "cdpo", "random", SECOND_STEPS),
            ("CPSFT", None, "cpsft", "random", total),
            ("DPO", "sft", "cdpo", "none", SECOND_STEPS),
            ("SFT", None, "cpsft", "none", total),
        ):
            module, seconds = _train(
                folder, name, stage, control, steps, None if start is None else folder / f"{start}.ckpt"
            )
            models[name] = _asked(module, control == "random")
            models[name]["seconds"] = seconds + (0.0 if start is None else begun[start][1])
            print(f"{name}: {_line(models[name])}, {models[name]['seconds']:.0f} s of training", flush=True)
        models["CPSFT before CDPO"] = _asked(begun["cpsft"][0], True)
    for first, second in combinations(models["CPO"]["scales"], 2):
        scales = [models["CPO"]["scales"][name] for name in (first, second)]
        tolerance = tuple(TOLERANCE * (high - low) for low, high in scales)
        front = _points(models["CPO"], first, second)
        for model in models.values():
            points = _points(model, first, second)
            model.setdefault("uncovered", {})[f"{first}+{second}"] = covers(front, points, tolerance)
            share = hypervolume(points, (scales[0][0], scales[1][0])) / math.prod(high - low for low, high in scales)
            model.setdefault("hypervolume", {})[f"{first}+{second}"] = share
    return {"models": models, "steps": [FIRST_STEPS, SECOND_STEPS], "questions": QUESTIONS}


_CONTROLS = {"cpsft": "random", "sft": "none"}


def _train(
    folder: Path, name: str, stage: Any, control: Any, steps: int, start: Path | None = None
) -> tuple[Any, float]:
    """A trained module, its checkpoint in ``folder``, and the seconds it took."""
    import lightning.pytorch as pl

    from fulgurite.adapters import LoRA
    from fulgurite.datamodules import CPODataModule
    from fulgurite.lightning_modules import CPOModule

    pl.seed_everything(0, verbose=False)
    data = CPODataModule(
        stage, "builtin", control=control, conditions_per_row=1, max_length=_PACK, batch_size=4, cache_dir=str(folder)
    )
    module = CPOModule(
        "playground", stage, LoRA(rank=RANK, alpha=2 * RANK) if stage == "cdpo" else None,
        None if start is None else str(start), beta=BETA,
        learning_rate=FIRST_RATE if stage == "cpsft" else SECOND_RATE, warmup_ratio=0.05, lr_schedule="cosine",
    )  # fmt: skip
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, gradient_clip_val=1.0, limit_val_batches=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    began = time.perf_counter()
    trainer.fit(module, data)
    seconds = time.perf_counter() - began
    trainer.save_checkpoint(folder / f"{name}.ckpt")
    return module, seconds


def _asked(module: Any, controllable: bool) -> dict[str, Any]:
    """What the answers of a model show, as plain values; a model without tokens is asked without any."""
    from fulgurite.data.conditions.objectives import OBJECTIVES, Objectives
    from fulgurite.data.encoding.tokenizers import load_tokenizer
    from fulgurite.data.playground import builtin_rows, rate
    from fulgurite.evaluation import ControlReport, ask, conditions_to_ask
    from fulgurite.generation import GenerationSettings, generate_text

    tokenizer, settings = load_tokenizer("playground"), GenerationSettings(max_new_tokens=56, batch_size=128)
    objectives = Objectives(OBJECTIVES)
    questions = list(dict.fromkeys(row["instruction"] for row in builtin_rows("cpo", "test")))[:QUESTIONS]

    def answer(prompts: list[str]) -> list[str]:
        return [texts[0] for texts in generate_text(module.network, tokenizer, prompts, settings)]

    conditions = conditions_to_ask(objectives) if controllable else [{}]
    found = ControlReport(objectives, ask(answer, questions, objectives, rate, conditions))
    pairs = list(combinations(objectives, 2))
    return {
        "scales": dict(objectives.scales),
        "rows": found.rows(),
        "free": {name: found.mean(name, {}) for name in objectives},
        "curves": {name: found.curve(name) for name in objectives},
        "falls": [[*names, *lost] for names, lost in found.falls().items()],
        "points": {"+".join(pair): [[at, point] for at, point in found.points(*pair).items()] for pair in pairs},
    }


def _points(model: dict[str, Any], first: str, second: str) -> list[tuple[float, float]]:
    return [(point[0], point[1]) for _, point in model["points"][f"{first}+{second}"]]


def _line(model: dict[str, Any]) -> str:
    free = ", ".join(f"{name} {level:.2f}" for name, level in model["free"].items())
    rho = ", ".join(f"{row['controlled']}: {row['objective']} {row['rho']:.3f}" for row in model["rows"])
    lost = max((fall[2] for fall in model["falls"]), default=math.nan)
    return f"free {free}" + (f"; ρ {rho}; largest fall {lost:+.3f}" if rho else "")


def report(figures: dict[str, Any], docs: Path) -> None:
    """docs/cpo_playground.md with tables and docs/cpo_playground.png."""
    models, first = figures["models"], figures["models"]["CPO"]
    intro = (__doc__ or "").split("\n\n", 1)[1].strip().splitlines()
    alone = [row for row in first["rows"] if "+" not in row["controlled"]]
    both = [row for row in first["rows"] if "+" in row["controlled"]]
    mean_fall, worst_fall = (max(fall[i] for fall in first["falls"]) for i in (2, 3))
    uncovered = {name: sum(map(len, models[name]["uncovered"].values())) for name in ("CPSFT", "DPO", "SFT")}
    lines = [
        "# CPO on the playground",
        "",
        *intro,
        "",
        f"Steps: {figures['steps'][0]} + {figures['steps'][1]}; {figures['questions']} questions per condition. Machine: "
        f"{figures['machine']['device']}; torch {figures['machine']['torch']}. Command: `python -m benchmarks.science "
        "cpo_playground`.",
        "",
        "| target | CPO | met |",
        "|---|---|---|",
        _target("ρ of each objective alone ≥ 0.9, lowest", min(r["rho"] for r in alone), TARGETS["alone"]),
        _target("ρ of each of two at once ≥ 0.8, lowest", min(r["rho"] for r in both), TARGETS["two at once"]),
        f"| a free objective falls by ≤ 5 % of its scale, mean of the levels (worst level) | {100 * mean_fall:.1f} % "
        f"({100 * worst_fall:.1f} %) | {'yes' if mean_fall <= TARGETS['fall'] else 'no'} |",
        f"| points beyond CPO's fronts: CPSFT, DPO, SFT | {', '.join(map(str, uncovered.values()))} | "
        f"{'yes' if uncovered['CPSFT'] + uncovered['DPO'] == 0 else 'no'} |",
        "",
        "ρ of asked and reached level (mean distance):",
        "",
        "| controlled | objective | CPO | CPSFT | CPSFT before CDPO |",
        "|---|---|---|---|---|",
    ]
    for rows in zip(*(models[name]["rows"] for name in ("CPO", "CPSFT", "CPSFT before CDPO")), strict=True):
        cells = " | ".join(f"{row['rho']:.3f} ({row['distance']:.2f})" for row in rows)
        lines.append(f"| {rows[0]['controlled'].replace('+', ' + ')} | {rows[0]['objective']} | {cells} |")
    names = list(first["scales"])
    pairs = ["+".join(pair) for pair in combinations(names, 2)]
    lines += [
        "",
        "Mean level without a condition, and the share of the area of both scales that lies under the model's front:",
        "",
        f"| model | {' | '.join(names)} | {' | '.join(pair.replace('+', ' × ') for pair in pairs)} | training, s |",
        "|---|" + "---|" * (len(names) + len(pairs) + 1),
    ]
    for name in ("CPO", "CPSFT", "DPO", "SFT"):
        model = models[name]
        cells = [f"{model['free'][n]:.2f}" for n in names] + [f"{model['hypervolume'][pair]:.3f}" for pair in pairs]
        lines.append(f"| {name} | {' | '.join(cells)} | {model['seconds']:.0f} |")
    lines += ["", "![Level reached over level asked for, and fronts](cpo_playground.png)"]
    (docs / "cpo_playground.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _picture(models, docs / "cpo_playground.png")


def _target(what: str, value: float, wanted: float) -> str:
    return f"| {what} | {value:.3f} | {'yes' if value >= wanted else 'no'} |"


def _picture(models: dict[str, Any], path: Path) -> None:
    from fulgurite.callbacks.picture import panels, save
    from fulgurite.evaluation import pareto_front

    scales = models["CPO"]["scales"]
    pairs = list(combinations(scales, 2))
    figure, (alone, *fronts) = panels(1 + len(pairs))
    for place, (name, (low, high)) in enumerate(scales.items()):  # lines that lie on each other stay visible
        curve = [((x - low) / (high - low), (y - low) / (high - low)) for x, y in models["CPO"]["curves"][name]]
        alone.plot(
            *zip(*curve, strict=True), marker="o", markersize=9 - 3 * place, linewidth=5 - 2 * place,
            label=f"{name}, {low:g} to {high:g}",
        )  # fmt: skip
    alone.plot((0, 1), (0, 1), color="0.6", linewidth=0.8, linestyle=":")
    alone.set_title("CPO, one objective controlled")
    alone.set_xlabel("level asked for, share of the scale")
    alone.set_ylabel("mean level reached")
    alone.legend(fontsize=7)
    for axes, pair in zip(fronts, pairs, strict=True):
        for (name, colour), marker in zip(
            {"CPO": "tab:blue", "CPSFT": "tab:orange", "DPO": "tab:red", "SFT": "tab:green"}.items(),
            "osD^",
            strict=True,
        ):
            points = _points(models[name], *pair)
            across, up = zip(*points, strict=True)
            axes.scatter(across, up, color=colour, marker=marker, s=12, alpha=0.45)
            axes.plot(*zip(*pareto_front(points), strict=True), color=colour, marker=marker, markersize=5, label=name)
        axes.set_xlabel(f"mean {pair[0]}")
        axes.set_ylabel(f"mean {pair[1]}")
        axes.set_title("every condition, and fronts")
        axes.legend(fontsize=7)
    save(figure, path)

"""Study: does training on chains of repair teach the playground's model to repair? Turns 0 to 3, three feedback modes, three seeds.

The tasks ask for two or three steps of arithmetic; the base never read such a sentence, and no task that is asked stands in the
training rows. Each seed trains two models, both with configs/repair_playground.yaml. *before* writes programs and tests of training
tasks and has never seen a repair. *after* goes on from it with chains of repair, without further rows of writing. The chains are of
two sorts. Those of its own are what `fulgurite repair` writes to sft.jsonl when *before* is both learner and teacher on training
tasks; it explains by chance, and the number of these chains by seed, which may be 0, stands with the rows. The others are made: a
program of a training task is broken on purpose, run, explained and mended. One
model is learner and teacher.

Both models have the same held-out tasks in every mode, one chain of each task and seed, so that all rates have the same number of
trials. Prompts are short ones of the study's own (benchmarks/studies/repair/prompts). Intervals are over tasks, of which each
counts with its mean over the seeds. Programs end at 80 tokens and explanations at 40; words about two mistakes may be longer, and
so may answers of step_by_step, which have such words before their program. *after* has had more training, so that only what it
gains from turn 0 on, and what is solved beside the baselines of the same model, says something about repairs.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.studies.repair.rows import PROMPTS, broken, chain_rows, mbpp_row, tasks, writing_rows
from benchmarks.studies.repair.tables import write_page
from fulgurite.cli import main as fulgurite
from fulgurite.data.playground.draw import Draw
from fulgurite.evaluation.repair.prompts import Templates
from fulgurite.whole_files import write_text

__all__ = ["MODELS", "MODES", "report", "run", "write_data"]

CONFIG = Path(__file__).parents[3] / "configs" / "repair_playground.yaml"
FOLDER = Path("runs/repair-playground")
SEEDS = (0, 1, 2)
MODES = ("hidden", "visible", "selfgen")
MODELS = ("before", "after")
TURNS = 3
TRAINED, ASKED = 250, 16  # training tasks, held-out tasks
OWN = 16  # training tasks on which the model looks for chains of its own
WRITING_STEPS, CHAIN_STEPS = 150, 200
_PROGRAM, _EXPLANATION = 80, 40  # tokens at most
_MADE = 4  # broken programs of each training task


def run(real_data: Path) -> dict[str, Any]:
    """Trains and asks every model; what stands in FOLDER is not made again. No real rows are read."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    begun, counts = time.process_time(), write_data(FOLDER)
    found: dict[str, dict[str, list[Any]]] = {model: {mode: [] for mode in MODES} for model in MODELS}
    own, number, total = [], 0, len(SEEDS) * len(MODELS)
    for seed in SEEDS:
        folder = FOLDER / f"seed{seed}"
        own.append(_train(folder, seed))
        for model in MODELS:
            number += 1
            for mode, figures in _asked(folder, model, seed).items():
                found[model][mode].append(figures)
            print(_line(number, total, seed, model, [found[model][mode][-1] for mode in MODES]), flush=True)
    return {
        "models": {model: {mode: _merged(runs) for mode, runs in modes.items()} for model, modes in found.items()},
        "rows": {**counts, "own chains, by seed": own},
        "settings": {
            "seeds": list(SEEDS),
            "tasks": {"training": TRAINED, "held out": ASKED, "asked for own chains": OWN},
            "steps": {"before": WRITING_STEPS, "after": CHAIN_STEPS},
            "turns": TURNS,
            "trials of each rate": ASKED * len(SEEDS),
        },
        "CPU seconds of this call": round(time.process_time() - begun),
    }


def report(figures: dict[str, Any], docs: Path) -> None:
    """Writes the page and the picture of the study.

    Args:
        figures: of `run`, with machine and date.
        docs: the folder.
    """
    write_page(figures, (__doc__ or "").split("\n\n", 1)[1], docs)


def write_data(folder: Path) -> dict[str, int]:
    """Writes training and held-out tasks in MBPP's schema, rows of writing, and made chains.

    Args:
        folder: where to.

    Returns:
        How many rows each file has.
    """
    templates, draw = Templates(PROMPTS), Draw("repair|broken")
    train, asked = tasks("train", TRAINED), tasks("test", ASKED)
    files = {
        "tasks.jsonl": [mbpp_row(task, number) for number, task in enumerate(train)],
        "held_out.jsonl": [mbpp_row(task, number) for number, task in enumerate(asked)],
        "writing.jsonl": [row for task in train for row in writing_rows(task, templates)],
        "made.jsonl": [
            row for task in train for _ in range(_MADE) for row in chain_rows(task, broken(task, draw), templates)
        ],
    }
    for name, rows in files.items():
        write_text(folder / name, "".join(json.dumps(row) + "\n" for row in rows))
    return {name.removesuffix(".jsonl"): len(rows) for name, rows in files.items()}


def _train(folder: Path, seed: int) -> int:
    """The models of a seed; returns how many rows of the chains are the model's own."""
    base, writing = folder / "before" / "merged", FOLDER / "writing.jsonl"
    _fit(folder / "before", "playground", [writing], WRITING_STEPS, seed)
    words = ["--format", "merged", "--overwrite", "true"]
    _once(base, lambda: _run(["export", "--ckpt_path", str(_weights(folder / "before")), "--out", str(base), *words]))
    chains = folder / "chains" / "mbpp" / "hidden" / "sft.jsonl"
    _once(folder / "chains" / "results.json", lambda: _run(_own_chains(base, folder / "chains", seed)))
    own = [chains] if chains.exists() else []
    _fit(folder / "after", str(base), [FOLDER / "made.jsonl", *own], CHAIN_STEPS, seed)
    return len(chains.read_text().splitlines()) if own else 0


def _own_chains(model: Path, out: Path, seed: int) -> list[str]:
    options = {
        "model": model, "tasks": "mbpp", "path": FOLDER / "tasks.jsonl", "limit": OWN, "out": out, "feedback": "hidden",
        "chat": "true", "prompts": PROMPTS, "turns": 1, "n": 2, "temperature": 0.8, "baselines": "false", "seed": seed,
        "max_new_tokens": _PROGRAM, "explanation_tokens": _EXPLANATION, "batch_size": 64, "workers": 1,
    }  # fmt: skip
    return ["repair", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


def _weights(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def _fit(folder: Path, start: str, rows: Sequence[Path], steps: int, seed: int) -> None:
    words = ["fit", "--config", str(CONFIG), "--model.backbone", start, "--data.path", json.dumps([*map(str, rows)])]
    words += ["--trainer.max_steps", str(steps), "--seed_everything", str(seed)]
    words += ["--trainer.default_root_dir", str(folder), "--trainer.enable_progress_bar", "false"]
    _once(_weights(folder), lambda: _run(words))


def _once(made: Path, make: Callable[[], None]) -> None:
    if not made.exists():
        make()


def _run(words: list[str]) -> None:
    if fulgurite(words):
        raise SystemExit(f"repair_playground: fulgurite {' '.join(words)} failed")


def _asked(folder: Path, model: str, seed: int) -> dict[str, Any]:
    """What a model solves of the held-out tasks in each mode; the loop goes on where it was stopped."""
    from fulgurite.commands.generate.command import load_model
    from fulgurite.commands.shared.options import ComputeOptions, SourceOptions
    from fulgurite.evaluation.judging.verdicts import How
    from fulgurite.evaluation.repair.loop import repair
    from fulgurite.evaluation.repair.plan import RepairPlan, Role
    from fulgurite.evaluation.repair.results import summary
    from fulgurite.evaluation.runner.writers import in_process
    from fulgurite.evaluation.tasks import TASKS
    from fulgurite.evaluation.tasks.rows import items_of
    from fulgurite.generation.protocol import SamplingSettings

    task, templates = TASKS["mbpp"], Templates(PROMPTS)
    items = items_of(task, str(FOLDER / "held_out.jsonl"), None, "error")
    loaded = load_model("repair", SourceOptions(str(_weights(folder / model))), ComputeOptions())
    writers = in_process(loaded, 64, True)
    window = loaded.model.config.max_position_embeddings
    drawn = SamplingSettings(_PROGRAM, 0.2, seed=seed)
    learner = Role(writers.answers, drawn, True, writers.tokenizer, window)
    teacher = Role(writers.answers, SamplingSettings(_EXPLANATION, 0.2, seed=seed), True, writers.tokenizer, window)
    found = {}
    for mode in MODES:
        out = folder / model / mode
        plan = RepairPlan(task, items, out, mode, learner, teacher, templates, How(workers=1), turns=TURNS)
        done = repair(plan, silent=True)
        result = summary(plan, done)
        if result.chains[0] < result.chains[1]:
            raise SystemExit(f"repair_playground: {result.warnings}; run the same command again")
        found[mode] = _figures(result, done.book)
    return found


def _figures(result: Any, book: Any) -> dict[str, Any]:
    """Of each method whether each task is solved after each turn, what it took, and what was odd."""
    methods = {}
    for method in result.methods:
        name = "sampling" if method.name.startswith("sampling") else method.name
        chains = [book.chain(name, problem.item.key, 0, False) for problem in result.plan.problems]
        methods[method.name] = {
            "solved": [[chain.solved(turn) for chain in chains] for turn in range(len(method.solved))],
            "tokens": method.cost.tokens,
            "programs": method.programs,
            "counts": method.counts,
        }
    errors = {kind: [chains, fixed] for kind, (chains, fixed, _) in result.first_errors.items()}
    return {"methods": methods, "first errors": errors}


def _merged(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The seeds of one model in one mode together. Of sampling at equal tokens the last round counts for which they sufficed."""
    names = dict.fromkeys(name for run in runs for name in run["methods"])
    methods = {name: _of_method(name, [run for run in runs if name in run["methods"]]) for name in names}
    errors: dict[str, list[int]] = {}
    for kind, (chains, fixed) in (pair for run in runs for pair in run["first errors"].items()):
        before = errors.get(kind, [0, 0])
        errors[kind] = [before[0] + chains, before[1] + fixed]
    return {"methods": methods, "first errors": errors}


def _of_method(name: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One method over the seeds in which it has a program; `by seed` shows how many those are."""
    from fulgurite.evaluation.repair.results import difference_of
    from fulgurite.evaluation.runner.statistics import mean_of

    def by_task(name: str, turn: int) -> list[float]:
        cells = zip(*(run["methods"][name]["solved"][turn] for run in runs), strict=True)
        return [sum(values) / len(runs) for values in cells]

    own = [run["methods"][name] for run in runs]
    turns = [-1] if name == "sampling, equal tokens" else range(TURNS + 1)
    counts: Counter[str] = Counter()
    for part in own:
        counts.update(part["counts"])
    apart = None if name == "intervenor" else difference_of(by_task("intervenor", TURNS), by_task(name, turns[-1]))
    return {
        "solved": [mean_of(by_task(name, turn)).to_dict() for turn in turns],
        "by seed": [sum(part["solved"][-1]) / len(part["solved"][-1]) for part in own],
        "ours minus it": None if apart is None else apart.to_dict(),
        "tokens": sum(part["tokens"] for part in own),
        "programs": sum(part["programs"] for part in own),
        "counts": dict(sorted(counts.items())),
    }


def _line(number: int, total: int, seed: int, model: str, modes: Sequence[dict[str, Any]]) -> str:
    def share(solved: Sequence[bool]) -> str:
        return f"{sum(solved) / len(solved):.2f}"

    told = []
    for mode, figures in zip(MODES, modes, strict=True):
        ours = figures["methods"]["intervenor"]["solved"]
        told.append(f"{mode} {share(ours[0])} → {share(ours[-1])}")
    return f"[{number}/{total}] seed {seed}, {model}: {', '.join(told)}"

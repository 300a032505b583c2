"""`fulgurite best-of-n`: what choosing among n answers by a reward is worth, and training rows from what was chosen.

Answers come from a file that `fulgurite generate --best_of` wrote, or are drawn here for tasks whose checker knows what is right.
From one set of N answers of each prompt come unbiased curves for every n up to N: one sample, best, majority, weighted votes, and
the oracle that no rule can pass; with a judge beside the choosing reward they show where the reward is over-optimised.
"""

from __future__ import annotations

import time
from pathlib import Path

from fulgurite.commands.best_of_n.gathering import Gathered, of_file, of_task
from fulgurite.commands.best_of_n.report import Outcome, curves_table, draw, facts_table, write_prompts
from fulgurite.commands.best_of_n.scoring import score_all
from fulgurite.commands.evaluate.report import write_results
from fulgurite.commands.generate.command import load_model
from fulgurite.commands.shared.options import AskingOptions, RewardOptions, with_options
from fulgurite.commands.shared.rewards import load_scorer
from fulgurite.commands.shared.task_paths import path_of_each
from fulgurite.console import say, shortest
from fulgurite.evaluation.judging.verdicts import How
from fulgurite.evaluation.runner.plan import Plan, plan_of
from fulgurite.evaluation.runner.sampling import collect
from fulgurite.evaluation.runner.scoring import rate
from fulgurite.evaluation.runner.writers import in_process, served
from fulgurite.evaluation.selection.candidates import Candidates, Found
from fulgurite.evaluation.selection.scorers import Scorer
from fulgurite.evaluation.selection.study import study_of
from fulgurite.evaluation.selection.training_rows import training_rows, write_rows
from fulgurite.evaluation.tasks import Task, find_tasks
from fulgurite.generation.protocol import SamplingSettings

__all__ = ["best_of_n"]


@with_options
def best_of_n(
    file: str | None = None,
    tasks: str | None = None,
    path: str | None = None,
    out: str | None = None,
    *,
    rewards: RewardOptions,
    judge: str | None = None,
    judge_served_model: str | None = None,
    tau: float = 1.0,
    sft: str | None = None,
    pairs: str | None = None,
    top: int = 1,
    n: int = 16,
    limit: int | None = None,
    shots: int | None = None,
    shots_path: str | None = None,
    chat: bool = False,
    max_new_tokens: int | None = None,
    temperature: float = 1.0,
    asking: AskingOptions,
    overwrite: bool = False,
) -> None:
    """Measures what choosing among several answers is worth, and makes training rows of what was chosen.

    Args:
        file: rows with completions and their rewards, as `fulgurite generate --best_of` writes them.
        tasks: in place of --file, tasks of `fulgurite evaluate` with commas between, such as gsm8k; their answers are drawn here
            and judged.
        path: where the tasks' rows are, as of `fulgurite evaluate`.
        out: the folder for answers, rewards, results.json, pictures and prompts.jsonl.
        rewards: :class:`~fulgurite.commands.shared.options.RewardOptions`.
        judge: a second reward model, which judges what --reward chose: a .ckpt file, a folder, a hub id or a server's address.
        judge_served_model: the name by which that server knows its reward model.
        tau: temperature of weighted votes, in points of the reward: lower trusts the reward more, higher the number of votes.
        sft: write the best answers to this .jsonl file as rows for supervised fine-tuning (SFTDataModule).
        pairs: write the best and the worst answer of each prompt to this .jsonl file (PreferenceDataModule).
        top: different answers of a prompt that go to --sft at most.
        n: answers of each item of a task.
        limit: the first so many items of each task.
        shots: examples in front of each prompt; none takes what the task is defined with.
        shots_path: a file of training rows, from whose beginning the examples are taken; "gsm8k=FILE,…" for several tasks.
        chat: ask as a chat's user, with the chat template, in place of a text that is continued.
        max_new_tokens: tokens of an answer at most; none takes the task's.
        temperature: at which a task's answers are drawn.
        asking: :class:`~fulgurite.commands.shared.options.AskingOptions`.
        overwrite: replace answers, verdicts and rewards that are there.
    """
    if (file is None) == (tasks is None):
        held = "both were given" if file is not None else "neither was given"
        raise ValueError(f"best-of-n: --file or --tasks is needed, and {held}; give one of them")
    if out is None:
        raise ValueError("best-of-n: no --out was given; give a folder for rewards and results")
    if Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"best-of-n: --out {out} is a file; give a folder for rewards and results")
    for name, target in (("sft", sft), ("pairs", pairs)):
        if target is not None and not target.endswith((".jsonl", ".ndjson")):
            raise ValueError(f"best-of-n: --{name} {target}; what is written is .jsonl; give a name that ends so")
    for name, value, least in (("n", n, 2), ("top", top, 1), ("limit", limit, 1), ("batch_size", asking.batch_size, 1)):
        if value is not None and value < least:
            raise ValueError(f"best-of-n: {name}={value}; give {least} or more")
    if not 0 < tau < float("inf"):
        raise ValueError(f"best-of-n: tau={tau}; it must be above 0; give 1, or a value chosen on held-out prompts")
    begun, folder = time.monotonic(), Path(out)
    how = How(asking.sandbox, asking.time_limit, asking.workers)
    plans: list[Plan] = []
    if file is not None:
        _refuse_for_file(
            path=path, limit=limit, shots=shots, shots_path=shots_path, max_new_tokens=max_new_tokens, chat=chat or None,
            model=asking.model, adapter=asking.adapter, server=asking.server,
        )  # fmt: skip
        if not Path(file).exists():
            raise FileNotFoundError(f"best-of-n: --file {file}: no such file; check the path")
        scorer, second = _scorers(rewards, judge, judge_served_model, asking, how)
        found = [("", of_file(Path(file)))]
    else:
        chosen = find_tasks([name.strip() for name in str(tasks).split(",") if name.strip()])
        drawn = SamplingSettings(
            1, temperature, asking.top_p, asking.top_k, asking.repetition_penalty, seed=asking.seed
        )
        paths, shot_paths = (path_of_each("best-of-n", each, chosen) for each in (path, shots_path))
        for task in chosen:
            _check_task(task, how)
            plans.append(
                plan_of(
                    task,
                    paths[task.name],
                    folder / task.name,
                    drawn,
                    n=n,
                    limit=limit,
                    shots=shots,
                    shots_path=shot_paths[task.name],
                    chat=chat,
                    max_new_tokens=max_new_tokens,
                    on_bad_row=asking.on_bad_row,
                )
            )
        scorer, second = _scorers(rewards, judge, judge_served_model, asking, how)  # before hours of drawing
        found = [(plan.task.name, gathered) for plan, gathered in _drawn(plans, asking, chat, how, overwrite)]
    outcomes, kept = [], []
    for name, gathered in found:
        given = _rewards(scorer, gathered, folder / name, asking.batch_size, overwrite, file)
        judged = (
            None if second is None else _rewards(second, gathered, folder / name, asking.batch_size, overwrite, file)
        )
        study = study_of(gathered.candidates, given, judged, tau, asking.seed)
        study.warnings.extend(gathered.missing)
        chooser = scorer.name if scorer is not None else None if given is None else f"rewards of {shortest(str(file))}"
        identity = {"reward": None if scorer is None else scorer.identity(), "judge": second and second.identity()}
        outcome = Outcome(
            name or Path(str(file)).name, chooser, None if second is None else second.name, study, identity
        )
        outcomes.append(outcome)
        write_prompts(folder / name / "prompts.jsonl", gathered.candidates, given, study)
        draw(outcome, folder / name / "best_of_n.png")
        for measure in dict.fromkeys(curve.measure for curve in study.curves):
            say(curves_table(outcome, measure))
        say(facts_table(outcome))
        for warning in study.warnings:
            say(f"{outcome.task}: {warning}")
        say(f"picture: {shortest(folder / name / 'best_of_n.png')}")
        kept.append((gathered.candidates, given))
    asked = {
        "file": file, "tasks": tasks, "path": path, "model": asking.model, "adapter": asking.adapter,
        "server": asking.server, "served_model": asking.served_model, "reward": rewards.reward, "judge": judge, "n": n,
        "tau": tau, "limit": limit, "shots": shots, "chat": chat, "temperature": temperature, "seed": asking.seed,
    }  # fmt: skip
    write_results(folder, outcomes, asked, time.monotonic() - begun)
    say(f"results: {shortest(folder / 'results.json')}")
    _write_training(kept, sft, pairs, top)


def _scorers(
    rewards: RewardOptions, judge: str | None, served_model: str | None, asking: AskingOptions, how: How
) -> tuple[Scorer | None, Scorer | None]:
    """What chooses, and what judges."""
    if judge is None and served_model is not None:
        raise ValueError(f"best-of-n: --judge_served_model {served_model} without --judge; give the server's address")
    judging = RewardOptions(judge, served_model)
    first, second = (
        None if each.reward is None else load_scorer("best-of-n", each, asking, asking.batch_size, how)
        for each in (rewards, judging)
    )
    return first, second


def _refuse_for_file(**given: object) -> None:
    """Refuses options that belong to --tasks."""
    extra = [f"--{name}" for name, value in given.items() if value is not None]
    if extra:
        raise ValueError(
            f"best-of-n: {', '.join(extra)} with --file, whose answers are there already; leave out what belongs to --tasks"
        )


def _check_task(task: Task, how: How) -> None:
    if task.judge is None:
        raise ValueError(
            f"best-of-n: {task.name} compares log-likelihoods of choices and draws no answers; take a task of answers"
        )
    task.judge.check(how)


def _drawn(
    plans: list[Plan], asking: AskingOptions, chat: bool, how: How, overwrite: bool
) -> list[tuple[Plan, Gathered]]:
    """Answers and verdicts of each task; what is there is not drawn or judged again."""
    if asking.server is not None:
        if asking.model is not None or asking.adapter is not None:
            raise ValueError("best-of-n: --server and --model were given; a server knows its model; give one of them")
        writers = served(asking.server, asking.served_model, asking.concurrency, None, None, True, "best-of-n")
    else:
        writers = in_process(load_model("best-of-n", asking, asking), asking.batch_size, chat)
    found = []
    for plan in plans:
        done = collect(plan, writers.answers, overwrite)
        if done.known:
            say(f"{plan.task.name}: {done.known} answers were there already, {done.new} are new")
        if done.failed:
            say(f"{plan.task.name}: {len(done.failed)} answers could not be had, the first: {done.failed[0]}")
        found.append((plan, of_task(plan, rate(plan, how, overwrite))))
    return found


def _rewards(
    scorer: Scorer | None, gathered: Gathered, folder: Path, batch_size: int, overwrite: bool, file: str | None
) -> list[Found] | None:
    """By the scorer; without one those of the file, if it has some."""
    if scorer is not None:
        return score_all(scorer, gathered.candidates, gathered.asked, folder, 16 * batch_size, overwrite)
    if file is not None and gathered.rewards is None and not any(own.correct for own in gathered.candidates):
        raise ValueError(f"best-of-n: {file} has no column 'rewards', and no --reward was given; give --reward")
    return gathered.rewards


def _write_training(
    kept: list[tuple[list[Candidates], list[Found] | None]], sft: str | None, pairs: str | None, top: int
) -> None:
    """Training rows of all tasks; without a reward those that the checker finds right."""
    if sft is None and pairs is None:
        return
    found = [
        training_rows(candidates, given if given is not None else [own.correct for own in candidates], top)
        for candidates, given in kept
    ]
    left: dict[str, int] = {}
    for rows in found:
        for reason, count in rows.left_out.items():
            left[reason] = left.get(reason, 0) + count
    for reason, count in sorted(left.items()):
        if count:
            say(f"no training rows: {count:,} {reason}")
    for target, rows_of in (
        (sft, [r for rows in found for r in rows.sft]),
        (pairs, [r for rows in found for r in rows.pairs]),
    ):
        if target is not None:
            write_rows(Path(target), rows_of)
            say(f"training data: {shortest(target)}, {len(rows_of):,} rows")

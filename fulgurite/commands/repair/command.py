"""`fulgurite repair`: INTERVENOR's loop over programs of a model or a server, beside what the same budget solves without a teacher.

OUT/TASK/FEEDBACK/chains.jsonl grows by a line for each answer and each verdict; a run goes on where it was stopped. All runs of a
command share results.json and results.png; sft.jsonl and pairs.jsonl of each run are training data from repairs that worked.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from fulgurite.commands.evaluate.report import write_results
from fulgurite.commands.generate.command import load_model
from fulgurite.commands.repair.report import draw, errors_table, methods_table, moves_table, prompts_shown, tasks_table
from fulgurite.commands.shared.options import AskingOptions, with_options
from fulgurite.commands.shared.task_paths import path_of_each
from fulgurite.commands.shared.unused import COLD, cutting_options, refuse_unused
from fulgurite.console import say, shortest
from fulgurite.evaluation.judging.verdicts import How
from fulgurite.evaluation.repair.book import Repaired
from fulgurite.evaluation.repair.loop import repair as run_repairs
from fulgurite.evaluation.repair.plan import FEEDBACK, RepairPlan, Role
from fulgurite.evaluation.repair.problems import PROBLEMS, judge_of
from fulgurite.evaluation.repair.prompts import Templates, copy_templates
from fulgurite.evaluation.repair.results import RepairResult, summary
from fulgurite.evaluation.repair.training import write_rows
from fulgurite.evaluation.runner.writers import in_process, served
from fulgurite.evaluation.tasks import find_tasks
from fulgurite.evaluation.tasks.rows import items_of
from fulgurite.generation import ServerError
from fulgurite.generation.protocol import SamplingSettings

__all__ = ["repair"]

_SAMPLED_AT = 0.8


@with_options
def repair(
    tasks: str | None = None,
    path: str | None = None,
    out: str | None = None,
    *,
    asking: AskingOptions,
    teacher: str | None = None,
    teacher_adapter: str | None = None,
    teacher_server: str | None = None,
    teacher_served_model: str | None = None,
    feedback: str = "visible",
    turns: int = 3,
    n: int = 1,
    limit: int | None = None,
    max_programs: int | None = None,
    max_tokens: int | None = None,
    baselines: bool = True,
    chat: bool = False,
    teacher_chat: bool | None = None,
    prompts: str | None = None,
    write_prompts: str | None = None,
    max_new_tokens: int = 512,
    explanation_tokens: int = 512,
    temperature: float = 0.2,
    sampling_temperature: float = _SAMPLED_AT,
    dry_run: bool = False,
    list: bool = False,
    overwrite: bool = False,
) -> None:
    """Has a learner write programs, a teacher explain what fails, and the learner mend them, turn by turn.

    Args:
        tasks: names with commas between, such as "humaneval,codeerror"; --list true shows them.
        path: where the rows are: a file, a folder of data, hub, or builtin; several tasks may have a path each, as in
            "humaneval=FILE,mbpp=FILE".
        out: the folder for chains, results.json, results.png and training data.
        asking: :class:`~fulgurite.commands.shared.options.AskingOptions`.
        teacher: another model that teaches, as --model takes it; without one the learner teaches too.
        teacher_adapter: its adapter.
        teacher_server: a server of the teacher, in place of --teacher.
        teacher_served_model: the name by which that server knows it.
        feedback: which tests the errors come from: visible (examples that the problem shows), selfgen (tests that the model
            writes), or hidden (the tests by which programs are scored, as in the paper); several with commas between.
        turns: repairs of a program at most.
        n: chains of each item.
        limit: the first so many items of each task.
        max_programs: a budget: no turn begins once intervenor has written so many programs in all chains of a task and feedback
            mode; a turn that has begun is finished, and the baselines have the same turns.
        max_tokens: the same of the tokens of intervenor's prompts and answers.
        baselines: run self-repair, step by step and independent sampling at equal budget as well.
        chat: ask as a chat's user, with the chat template, in place of a text that is continued.
        teacher_chat: the same for the teacher; none takes that of --chat.
        prompts: a folder of prompt templates that replace ours by name.
        write_prompts: write our prompt templates into this folder, to be edited, and end.
        max_new_tokens: tokens of a program at most.
        explanation_tokens: tokens of an explanation at most.
        temperature: of programs and explanations; 0 takes the likeliest token each time.
        sampling_temperature: of the independent samples.
        dry_run: show the prompts of the first problem of each task, and end.
        list: show the tasks, and end.
        overwrite: replace chains that are there.
    """
    if list:
        say(tasks_table())
        return
    if write_prompts is not None:
        _write_prompts(Path(write_prompts))
        return
    templates = Templates(None if prompts is None else Path(prompts))
    if not tasks:
        raise ValueError(
            "repair: no tasks were given; give --tasks with names such as humaneval; --list true shows all"
        )
    chosen = find_tasks([name.strip() for name in tasks.split(",") if name.strip()])
    for task in chosen:
        if task.name not in PROBLEMS:
            raise ValueError(
                f"repair: {task.name} has no programs to repair; the tasks are: {', '.join(sorted(PROBLEMS))}"
            )
    modes = [*dict.fromkeys(name.strip() for name in feedback.split(",") if name.strip())]
    for mode in modes or [feedback]:
        if mode not in FEEDBACK:
            raise ValueError(f"repair: feedback={mode!r}; allowed are {', '.join(FEEDBACK)}; choose among them")
    if out is None and not dry_run:
        raise ValueError("repair: no --out was given; give a folder for chains and results")
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"repair: --out {out} is a file; give a folder for chains and results")
    if limit is not None and limit < 1:
        raise ValueError(f"repair: limit={limit}; give 1 or more")
    teaching = chat if teacher_chat is None else teacher_chat
    _refuse_idle(asking, teacher_server, chat or teaching, temperature, baselines, sampling_temperature)
    begun, folder, how = time.monotonic(), Path(out or "."), How(asking.sandbox, asking.time_limit, asking.workers)
    drawn = SamplingSettings(
        max_new_tokens, temperature, asking.top_p, asking.top_k, asking.repetition_penalty, seed=asking.seed
    )
    explained = replace(drawn, max_new_tokens=explanation_tokens)
    paths = path_of_each("repair", path, chosen)
    rows = {task.name: items_of(task, paths[task.name], limit, asking.on_bad_row) for task in chosen}
    if not dry_run:
        for task in chosen:
            judge_of(task).check(how)

    def role(given: AskingOptions, settings: SamplingSettings, chats: bool) -> Role:
        if given.server is not None:
            if given.model is not None or given.adapter is not None:
                raise ValueError(
                    "repair: a server and a model were given for one role; a server knows its model; give one"
                )
            # Log-probabilities tell how many tokens an answer has where the server writes no usage.
            writers = served(given.server, given.served_model, asking.concurrency, None, None, True, "repair")
            return Role(writers.answers, settings, chats)
        if given.served_model is not None:
            raise ValueError(f"repair: served_model {given.served_model} without its server; give the server's address")
        loaded = load_model("repair", given, given)
        writers = in_process(loaded, asking.batch_size, chats)
        window = getattr(getattr(loaded.model, "config", None), "max_position_embeddings", None)
        return Role(writers.answers, settings, chats, writers.tokenizer, window)

    theirs = {
        "teacher": teacher, "teacher_adapter": teacher_adapter, "teacher_server": teacher_server,
        "teacher_served_model": teacher_served_model,
    }  # fmt: skip
    asked = {
        "tasks": tasks, "path": path, "model": asking.model, "adapter": asking.adapter, "server": asking.server,
        "served_model": asking.served_model, **theirs, "feedback": feedback, "turns": turns, "n": n, "limit": limit,
        "max_programs": max_programs, "max_tokens": max_tokens,
        "chat": chat, "teacher_chat": teacher_chat, "temperature": temperature,
        "sampling_temperature": sampling_temperature, "seed": asking.seed,
    }  # fmt: skip
    learner = role(asking, drawn, chat)
    if any(value is not None for value in theirs.values()):
        asked_of = replace(
            asking, model=teacher, adapter=teacher_adapter, server=teacher_server, served_model=teacher_served_model
        )
        taught_by = role(asked_of, explained, teaching)
    else:
        taught_by = replace(learner, settings=explained, chat=teaching)
    plans = [
        RepairPlan(
            task,
            rows[task.name],
            folder / task.name / mode,
            mode,
            learner,
            taught_by,
            templates,
            how,
            turns=turns,
            n=n,
            baselines=baselines,
            sampling_temperature=sampling_temperature,
            max_programs=max_programs,
            max_tokens=max_tokens,
        )
        for task in chosen
        for mode in modes
    ]
    if dry_run:
        for plan in plans:
            say(prompts_shown(plan))
        return
    found, stopped = [], None
    for plan in plans:
        done = run_repairs(plan, overwrite)
        _say_done(plan, done)
        found.append(summary(plan, done))
        for file, count in write_rows(plan, done.book).items():
            say(f"training data: {shortest(file)}, {count} rows")
        stopped = stopped or done.stopped
    write_results(folder, found, asked, time.monotonic() - begun)
    draw(found, folder / "results.png")
    for result in found:
        _show(result)
    say(f"results: {shortest(folder / 'results.json')}   picture: {shortest(folder / 'results.png')}")
    if stopped is not None:
        raise ServerError(f"{stopped}; run the same command again to go on") from stopped


def _refuse_idle(
    asking: AskingOptions,
    teacher_server: str | None,
    chats: bool,
    temperature: float,
    baselines: bool,
    sampling_temperature: float,
) -> None:
    """Refuses options that would change nothing beside the others."""
    if not chats:
        refuse_unused("repair", "without --chat: the text is continued as it stands", template=(asking.template, None))
    if asking.server is None and teacher_server is None:
        refuse_unused("repair", "without a server", concurrency=(asking.concurrency, AskingOptions.concurrency))
    if not baselines:
        refuse_unused("repair", "with --baselines false", sampling_temperature=(sampling_temperature, _SAMPLED_AT))
        if temperature == 0:
            refuse_unused("repair", COLD, **cutting_options(asking))


def _write_prompts(folder: Path) -> None:
    written = copy_templates(folder)
    if not written:
        raise ValueError(f"repair: {folder} holds all templates already; edit them there, or give another folder")
    say(f"{len(written)} templates: {shortest(folder)}; give them to a run with --prompts {shortest(folder)}")


def _say_done(plan: RepairPlan, done: Repaired) -> None:
    lead = f"{plan.task.name}, {plan.feedback}"
    if done.repaired:
        say(f"{lead}: the last line of {shortest(plan.file)} was torn and is made again")
    if done.known:
        say(f"{lead}: {done.known} answers and verdicts were there already, {done.new} answers are new")
    for (method, item, index), why in [*done.troubles.items()][:3]:
        say(f"{lead}: {method}, {item}, chain {index}: {why}")


def _show(result: RepairResult) -> None:
    say(methods_table(result))
    if result.transitions:
        say(moves_table(result), errors_table(result))
    for warning in result.warnings:
        say(f"{result.task}: {warning}")

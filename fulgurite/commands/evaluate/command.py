"""`fulgurite evaluate`: benchmarks of a model with its adapter, or of a server's model.

Two phases: `generate` appends samples to OUT/TASK/samples.jsonl, `score` appends verdicts to OUT/TASK/scores.jsonl. Both go on
where they were stopped, and both can run alone: samples can be judged again, or elsewhere, without a model.
"""

import time
from pathlib import Path
from typing import Any, Literal

from fulgurite.commands.evaluate.effects import CAP, refuse_idle, refuse_idle_shots
from fulgurite.commands.evaluate.report import draw, prompts_shown, results_table, tasks_table, write_results
from fulgurite.commands.evaluate.until_passes import UntilResult, size_of, write_counts
from fulgurite.commands.evaluate.until_passes import result_of as result_until
from fulgurite.commands.evaluate.until_report import draw as draw_rates
from fulgurite.commands.evaluate.until_report import rates_table
from fulgurite.commands.generate.command import load_model
from fulgurite.commands.shared.options import AskingOptions, with_options
from fulgurite.commands.shared.task_paths import path_of_each
from fulgurite.console import say, shortest
from fulgurite.evaluation.judging.verdicts import How
from fulgurite.evaluation.pass_until.drawing import draw_until
from fulgurite.evaluation.pass_until.estimators import special_functions
from fulgurite.evaluation.pass_until.forecast import bounds_told
from fulgurite.evaluation.pass_until.stopping import Until
from fulgurite.evaluation.runner.plan import Plan, plan_of
from fulgurite.evaluation.runner.results import result_of
from fulgurite.evaluation.runner.sampling import collect
from fulgurite.evaluation.runner.scoring import rate
from fulgurite.evaluation.runner.writers import in_process, served
from fulgurite.evaluation.tasks import find_tasks
from fulgurite.generation.protocol import SamplingSettings

__all__ = ["evaluate"]


@with_options
def evaluate(
    tasks: str | None = None,
    path: str | None = None,
    out: str | None = None,
    *,
    asking: AskingOptions,
    phase: Literal["all", "generate", "score"] = "all",
    n: int = 1,
    k: str | None = None,
    until_passes: int | None = None,
    until_passes_of: Literal["instance", "task"] = "instance",
    cap: int = CAP,
    limit: int | None = None,
    shots: int | None = None,
    shots_path: str | None = None,
    chat: bool = False,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    max_requests: int | None = None,
    max_tokens: int | None = None,
    dry_run: bool = False,
    list: bool = False,
    overwrite: bool = False,
) -> None:
    """Evaluates a model on tasks.

    Args:
        tasks: names with commas between them, such as "gsm8k,humaneval,arc_easy"; --list true shows them.
        path: where the rows are: a file, a folder of data, hub (fetches the pinned data set), or builtin; several tasks may have a
            path each, as in "gsm8k=FILE,piqa=FILE".
        out: the folder for samples, scores, results.json and results.png.
        asking: :class:`~fulgurite.commands.shared.options.AskingOptions`.
        phase: all, or generate (samples only), or score (verdicts on samples that are there; takes no model).
        n: samples of each item; above 1 they are drawn, and pass@k and maj@k are reported.
        k: of pass@k and maj@k, with commas between; none takes 1, 10, 100 and n.
        until_passes: draw until so many answers pass (2 or more), as PassUntil does; resolves rates that no fixed n does.
        until_passes_of: what has to have so many passes: each item (instance), for rates of items; or the task, whose items are
            drawn in random order, for its score alone, which takes far fewer draws.
        cap: draws at most, of an item or of the task, with until_passes.
        limit: the first so many items of each task.
        shots: examples in front of each prompt; none takes what the task is defined with.
        shots_path: a file of training rows, from whose beginning the examples are taken; "gsm8k=FILE,…" for several tasks.
        chat: ask as a chat's user, with the chat template, in place of a text that is continued.
        max_new_tokens: tokens of an answer at most; none takes the task's.
        temperature: 0 takes the likeliest token each time; none takes 0 for one sample, 0.8 for several, 1 with until_passes.
        max_requests: HTTP requests to the server at most, for each task.
        max_tokens: tokens that the server may use at most, prompts included, for each task.
        dry_run: show the first three prompts of each task as the model would get them (with until_passes, the least and the most
            draws too), and end.
        list: show the tasks, and end.
        overwrite: replace samples and scores that are there; with --phase score the scores only.
    """
    if list:
        say(tasks_table())
        return
    if not tasks:
        raise ValueError(
            "evaluate: no tasks were given; give --tasks with names such as gsm8k,arc_easy; --list true shows all"
        )
    chosen = find_tasks([name.strip() for name in tasks.split(",") if name.strip()])
    if out is None and not dry_run:
        raise ValueError("evaluate: no --out was given; give a folder for samples and results")
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"evaluate: --out {out} is a file; give a folder for samples and results")
    for name, value, least in (("n", n, 1), ("limit", limit, 1), ("shots", shots, 0)):
        if value is not None and value < least:
            raise ValueError(f"evaluate: {name}={value}; give {least} or more")
    ks = _numbers(k, n)
    until = None if until_passes is None else Until(until_passes, cap, until_passes_of)
    if until is not None:
        special_functions()
        if n != 1 or k is not None or phase != "all":
            raise ValueError(
                "evaluate: --until_passes takes no --n, --k or --phase: how many draws are made depends on what passes"
            )
    options = {
        "n": n, "k": k, "chat": chat, "cap": cap, "until_passes_of": until_passes_of, "max_new_tokens": max_new_tokens,
        "temperature": temperature, "max_requests": max_requests, "max_tokens": max_tokens,
    }  # fmt: skip
    refuse_idle(chosen, asking, phase, until_passes, options)
    if temperature is None:
        temperature = 1.0 if until is not None else 0.0 if n == 1 else 0.8
    if n > 1 and temperature == 0:
        raise ValueError(
            f"evaluate: n={n} with temperature 0 would give the same answer {n} times; set temperature above 0, such as 0.8, or n=1"
        )
    begun = time.monotonic()
    paths, shot_paths = path_of_each("evaluate", path, chosen), path_of_each("evaluate", shots_path, chosen)
    how = How(asking.sandbox, asking.time_limit, asking.workers)
    drawn = SamplingSettings(1, temperature, asking.top_p, asking.top_k, asking.repetition_penalty, seed=asking.seed)
    plans = []
    for task in chosen:
        if phase != "generate" and not dry_run and task.judge is not None:
            task.judge.check(how)
        plans.append(
            plan_of(
                task,
                paths[task.name],
                Path(out or ".") / task.name,
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
    refuse_idle_shots(plans, shots_path)
    asked = {
        "tasks": tasks, "path": path, "model": asking.model, "adapter": asking.adapter, "server": asking.server,
        "served_model": asking.served_model, "n": n, "limit": limit, "shots": shots, "chat": chat, "seed": asking.seed,
        "until_passes": until_passes, "until_passes_of": until_passes_of, "cap": cap,
    }  # fmt: skip
    if phase != "score":
        if asking.server is None:
            if asking.served_model is not None:
                raise ValueError(
                    f"evaluate: --served_model {asking.served_model} without --server; give the server's address"
                )
            loaded = load_model("evaluate", asking, asking)
            writers = in_process(loaded, asking.batch_size, chat)
        else:
            if asking.model is not None or asking.adapter is not None:
                raise ValueError(
                    "evaluate: --server and --model were given; a server knows its model; give one of them"
                )
            writers = served(asking.server, asking.served_model, asking.concurrency, max_requests, max_tokens)
        if dry_run:
            for plan in plans:
                say(prompts_shown(plan, writers.tokenizer))
                if until is not None:
                    keys, longest = [item.key for item in plan.items], plan.settings.max_new_tokens
                    say(bounds_told(plan.task.name, keys, until, longest))
            return
        if until is not None:
            size = size_of(loaded.model) if asking.server is None else None
            name = str(asking.served_model or asking.adapter or asking.model)
            found = [
                result_until(plan, draw_until(plan, writers.answers, until, how, overwrite, tell=say), name, size)
                for plan in plans
            ]
            _report_until(Path(out or "."), found, asked, time.monotonic() - begun)
            return
        for plan, writer in [(plan, writers.of(plan.task)) for plan in plans]:
            _say_sampled(plan, collect(plan, writer, overwrite))
    elif dry_run:
        for plan in plans:
            say(prompts_shown(plan, None))
        return
    if phase == "generate":
        return
    results = [result_of(plan, rate(plan, how, overwrite and phase == "score"), ks) for plan in plans]
    folder = Path(out or ".")
    write_results(folder, results, asked, time.monotonic() - begun)
    picture = folder / "results.png"
    draw(results, picture)
    say(results_table(results))
    for result in results:
        for warning in result.warnings:
            say(f"{result.task}: {warning}")
    drawn_too = f"   picture: {shortest(picture)}" if picture.is_file() else ""
    say(f"results: {shortest(folder / 'results.json')}{drawn_too}")


def _report_until(folder: Path, results: "list[UntilResult]", given: "dict[str, Any]", seconds: float) -> None:
    """Table, results.json, counts.csv of each task, picture."""
    write_results(folder, results, given, seconds)
    draw_rates(results, folder / "results.png")
    say(rates_table(results))
    for result in results:
        for warning in result.warnings:
            say(f"{result.task}: {warning}")
    files = [shortest(write_counts(result)) for result in results]
    say(f"results: {shortest(folder / 'results.json')}   picture: {shortest(folder / 'results.png')}")
    say(f"counts, for fulgurite scaling: {'   '.join(files)}")


def _say_sampled(plan: Plan, done: Any) -> None:
    if done.repaired:
        say(f"{plan.task.name}: the last line of {shortest(plan.samples_file)} was torn and is made again")
    if done.known:
        say(f"{plan.task.name}: {done.known} samples were there already, {done.new} are new")
    if done.failed:
        say(f"{plan.task.name}: {len(done.failed)} samples could not be had, the first: {done.failed[0]}")


def _numbers(text: str | None, n: int) -> "list[int] | None":
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() and 1 <= int(word) <= n for word in words):
        raise ValueError(f"evaluate: k={text!r}; give whole numbers from 1 to n={n} with commas between, such as 1,{n}")
    return [int(word) for word in words]
